package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServesWhileDraining(t *testing.T) {
	env := map[string]string{"TARGET_WORLD": "earth", "POD_IP": "10.1.0.9"}
	ctx, cancel := context.WithCancel(t.Context())
	var log logtest.Buffer
	address, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		args := []string{"-addr", "127.0.0.1:0", "-text", "world", "-drain", "500ms"}
		ended <- serve(ctx, args, func(k string) string { return env[k] }, &log, func(a net.Addr) { address <- a })
	}()
	url := "http://" + (<-address).String()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func() (string, bool, error) {
		res, err := client.Get(url)
		if err != nil {
			return "", false, err
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		return string(body), res.Close, err
	}
	if body, last, err := get(); err != nil || last || body != "earth (10.1.0.9)!" {
		t.Errorf("got %q, %v, %v", body, last, err)
	}
	cancel()
	// Every request is answered until the end of the drain; the first ones may come before it.
	for {
		body, last, err := get()
		if err != nil || body != "earth (10.1.0.9)!" {
			t.Fatalf("got %q, %v", body, err)
		}
		if last {
			break
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, want := range []string{"starting HTTP server on 127.0.0.1:0", "shutting down HTTP server"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
}

func TestRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"-protocol=grpc":     "protocol grpc is not served yet, it comes in a later version; use -protocol=http",
		"-protocol=thrift":   "unsupported protocol: thrift",
		"-latency=11s":       "latency is 11s, it must not be over 10s",
		"-failure-rate=2":    "failure rate is 2, it must be between 0.0 and 1.0",
		"-addr=127.0.0.1:-1": "listen: listen tcp: address -1: invalid port",
		"world":              `there are no arguments but flags, got ["world"]`,
	} {
		err := serve(t.Context(), []string{args}, func(string) string { return "" }, io.Discard, nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
	if err := serve(t.Context(), []string{"-h"}, nil, io.Discard, nil); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: got %v", err)
	}
}
