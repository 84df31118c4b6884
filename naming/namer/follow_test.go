package namer_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// onePipe is a listener with one connection.
type onePipe chan net.Conn

func (p onePipe) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p onePipe) Close() error   { close(p); return nil }
func (p onePipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// A client that takes nothing of what it asked for is not followed for ever; one that has nothing to take is.
func TestStreamsEndForClientsThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := namer.NewMemory(map[string]string{"a": "/svc => /host"})
		if err != nil {
			t.Fatal(err)
		}
		handler := namer.NewAPI(namer.APIConfig{Store: store, Logger: slog.New(slog.DiscardHandler)})
		served := make(chan struct{})
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(served)
			handler.ServeHTTP(w, r)
		})}
		near, far := net.Pipe()
		listener := make(onePipe, 1)
		listener <- far
		go func() { _ = server.Serve(listener) }()
		if _, err := fmt.Fprint(near, "GET /api/1/dtabs/a?watch=true HTTP/1.1\r\nHost: namer\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		reading := make(chan struct{})
		go func() {
			defer close(reading)
			_ = near.SetReadDeadline(time.Now().Add(10 * api.Silence))
			_, _ = io.Copy(io.Discard, near)
		}()
		<-reading // it has taken the rules, and there was nothing else for long
		select {
		case <-served:
			t.Fatal("a stream without news has ended")
		default:
		}
		if err := store.Delete(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Create(t.Context(), "a", namer.Change{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(api.Silence + time.Second)
		select {
		case <-served:
		default:
			t.Error("the stream is still there for a client that reads nothing")
		}
		_ = near.Close()
		_ = server.Close()
	})
}
