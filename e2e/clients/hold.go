package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/internal/run"
)

// late is how long an application that was told to stop goes on before its last request. A proxy that was told at the same
// time, and listened to it, is gone by then.
const late = 2 * time.Second

// once asks for a URL, once, and expects an answer.
func once(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %d %q %v", url, res.StatusCode, text, err)
	}
	return nil
}

// hold is an application that asks for a URL as the first thing it does and as the last, and accepts connections in
// between. Each request is made once: whoever starts it before its proxy, or stops the proxy before it, fails it.
func hold(ctx context.Context, url string) error {
	if err := once(ctx, url); err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	listener, err := net.Listen("tcp", ":7777")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second}
	serve := run.Component{Name: "server", Run: run.HTTP(server, listener, late)}
	if err := run.Group(ctx, run.Config{Drain: late}, serve); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if err := once(context.WithoutCancel(ctx), url); err != nil {
		return fmt.Errorf("last request: %w", err)
	}
	return nil
}
