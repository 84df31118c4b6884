package run

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// Server is one port of a process.
type Server struct {
	Name    string      // of the component that serves there
	Address string      // host:port or :port; port 0 is one that is free
	TLS     *tls.Config // as for HTTPS; nil: in the clear
	HTTP    *http.Server
}

// Listen opens the ports of all servers, or of none, and returns the components that serve there, with the grace of
// [HTTP]. opened, if not nil, is told where each server listens.
func Listen(servers []Server, grace time.Duration, opened func(name, address string)) ([]Component, error) {
	var listeners []net.Listener
	var components []Component
	var errs []error
	for _, s := range servers {
		listener, err := net.Listen("tcp", s.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("listen for the %s: %w", s.Name, err))
			continue
		}
		listeners = append(listeners, listener)
		serve := HTTP(s.HTTP, listener, grace)
		if s.TLS != nil {
			serve = HTTPS(s.HTTP, listener, s.TLS, grace)
		}
		components = append(components, Component{Name: s.Name, Run: serve})
	}
	if err := errors.Join(errs...); err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return nil, err
	}
	for i, l := range listeners {
		if opened != nil {
			opened(servers[i].Name, l.Addr().String())
		}
	}
	return components, nil
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
