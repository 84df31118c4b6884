// Command helloworld is the example application: a small HTTP service that says a word, and may call
// another one first.
//
// It stops as an application under Kubernetes should. The end of a pod reaches the pod and its callers at the
// same moment, so that at SIGTERM it goes on accepting for -drain, and only then finishes what it has
// begun. With -drain=0 it stops at once, as the application that it is modelled on does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/helloworld"
	"github.com/tulle-mesh/tulle/internal/run"
)

const (
	// ioTimeout bounds reading a request and writing its answer; the app itself takes 10 s at most.
	ioTimeout = 11 * time.Second
	// idleTimeout is longer than the other end of a connection is likely to keep one, so that it is not
	// closed under a request that is just coming in.
	idleTimeout = 2 * time.Minute
	// defaultDrain is longer than the news of an endpoint's end takes to the last proxy.
	defaultDrain = 3 * time.Second
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if err := serve(ctx, os.Args[1:], os.Getenv, os.Stderr, nil); errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "helloworld:", err)
		os.Exit(1)
	}
}

// serve is the program. If listening is not nil it gets the address when it is known.
func serve(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer, listening func(net.Addr)) error {
	var cfg helloworld.Config
	flags := flag.NewFlagSet("helloworld", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", ":7777", "address to listen on")
	protocol := flags.String("protocol", "http", "protocol to serve: http")
	drain := flags.Duration("drain", defaultDrain, "how long to go on accepting after SIGTERM")
	flags.StringVar(&cfg.Text, "text", "Hello", "word to answer; TARGET_WORLD replaces it")
	flags.StringVar(&cfg.Target, "target", "", "host to call first, through http_proxy")
	flags.DurationVar(&cfg.Latency, "latency", 0, "time to sleep before each answer, at most 10s")
	flags.Float64Var(&cfg.FailureRate, "failure-rate", 0, "share of answers that fail, from 0.0 to 1.0")
	flags.BoolVar(&cfg.JSON, "json", false, "answer in JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are no arguments but flags, got %q", flags.Args())
	}
	switch *protocol {
	case "http":
	case "grpc":
		return errors.New("protocol grpc is not served yet, it comes in a later version; use -protocol=http")
	default:
		return fmt.Errorf("unsupported protocol: %s", *protocol)
	}
	if world := getenv("TARGET_WORLD"); world != "" {
		cfg.Text = world
	}
	cfg.PodIP = getenv("POD_IP")
	app, err := helloworld.New(cfg)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	log.Info("starting HTTP server on " + *addr)
	if listening != nil {
		listening(listener.Addr())
	}
	server := &http.Server{
		Handler: app, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	draining := func() {
		log.Info("shutting down HTTP server on " + *addr)
		app.Drain()
	}
	return run.Group(ctx, run.Config{Drain: *drain, Draining: draining},
		run.Component{Name: "server", Run: run.HTTP(server, listener, ioTimeout)})
}
