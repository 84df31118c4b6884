package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func TestReach(t *testing.T) {
	t.Setenv("http_proxy", "http://127.0.0.1:1") // is what is looked for, not the way there
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Count(r.Header.Get("Via"), ",") != 1000 {
			t.Errorf("it would be sent on: Via: %s", r.Header.Get("Via"))
		}
		w.Header().Set("Tulle-Code", "T104")
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer proxy.Close()
	foreign := httptest.NewServer(http.RedirectHandler(proxy.URL, http.StatusFound))
	defer foreign.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := mute.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	defer mute.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()

	at := proxy.Listener.Addr().String()
	if printed, err := start(t, "reach", at, at); err != nil || strings.Count(printed, at+": a proxy of Tulle answers\n") != 2 {
		t.Errorf("%v %q", err, printed)
	}
	for address, want := range map[string]string{
		foreign.Listener.Addr().String(): "no proxy of Tulle: something answers with status 302",
		mute.Addr().String():             "no proxy of Tulle: ",
		gone.Addr().String():             "connection refused",
		"nowhere.invalid:4140":           "the name is not known: ",
	} {
		_, err := start(t, "reach", at, address)
		if cli.ExitCode(err) != 1 || err == nil || !strings.HasPrefix(err.Error(), "reach "+address+": "+want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, args := range [][]string{nil, {"4140"}, {"fd00::1:4140"}, {":4140"}} {
		if _, err := start(t, append([]string{"reach"}, args...)...); cli.ExitCode(err) != 64 {
			t.Errorf("%q: %v", args, err)
		}
	}
}
