// Command probe is a pod's program for testing the cluster itself: it says who it is, and what it
// sees of others.
//
//	GET /             its pod's name
//	GET /from         the address the request came from
//	GET /fetch?url=…  what the URL answers, asked from inside the pod
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatalf("probe: find the pod's name: %v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	mux.HandleFunc("GET /from", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr) // the server made it of the two
		fmt.Fprint(w, host)
	})
	mux.HandleFunc("GET /fetch", fetch)
	log.Printf("probe %s listens on 8080", name)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Fatalf("probe: %v", server.ListenAndServe())
}

// fetch passes on the body of what it is asked to fetch, or 502 and the reason why not.
func fetch(w http.ResponseWriter, r *http.Request) {
	// A connection of its own each time, so that each asks kube-proxy anew.
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(r.FormValue("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	if _, err := io.Copy(w, response.Body); err != nil {
		log.Printf("pass on %s: %v", r.FormValue("url"), err)
	}
}
