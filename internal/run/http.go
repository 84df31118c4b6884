package run

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

// HTTP returns the Run of a [Component] that serves on listener until its context is done, then accepts
// nothing more, lets requests under way finish for at most grace, and closes what is left. Requests cut
// off by the end of grace are no error. The component owns server and listener.
//
// A listener made by [crypto/tls.NewListener] serves HTTP/2 too when its config offers "h2".
func HTTP(server *http.Server, listener net.Listener, grace time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		return serve(ctx, server, func() error { return server.Serve(listener) }, grace)
	}
}

// HTTPS is [HTTP] over TLS: config must have a certificate or a way to get one; HTTP/2 is offered.
func HTTPS(server *http.Server, listener net.Listener, config *tls.Config, grace time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		server.TLSConfig = config
		return serve(ctx, server, func() error { return server.ServeTLS(listener, "", "") }, grace)
	}
}

// Streams returns a handler whose requests end when server begins to shut down. It is for answers without
// an end, which a graceful stop would wait for in vain. Call it before the server runs.
func Streams(server *http.Server, handler http.Handler) http.Handler {
	stopping, stop := context.WithCancel(context.Background())
	server.RegisterOnShutdown(stop)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		handler.ServeHTTP(w, r.WithContext(ctx))
	})
}

func serve(ctx context.Context, server *http.Server, accept func() error, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- accept() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-failed
	return err
}
