// Command clients is both ends of the end-to-end tests with real clients: the application that they call,
// and the client for Go. Those for Python and Node are the scripts beside it, and curl is itself.
//
// Every client goes through the same cases, named in all three languages alike. It takes the proxy from
// http_proxy, as an application of the mesh does, and prints a line for each case:
//
//	ok chunked: 12 ms
//	FAIL trailers: got "", want "abc"
//
// The application knows nothing of the mesh either. What it answers is said at its handlers.
//
// Beside them there are applications that make one request, or one at their beginning and one at their end, for the tests
// of the order in which applications and their proxies start and stop.
//
// Invariant: bodies are compared by their SHA-256 at the end that received them, never assumed.
//
//	clients serve echo echo.shop
//	http_proxy=http://10.1.2.3:4140 clients call echo '/host/echo => /srv/other'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/internal/run"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "serve":
		return serve(ctx, args[1], args[1:])
	case len(args) == 3 && args[0] == "call":
		return call(ctx, args[1], args[2], os.Stdout)
	case len(args) == 2 && args[0] == "once":
		return once(ctx, args[1])
	case len(args) == 2 && args[0] == "hold":
		return hold(ctx, args[1])
	}
	return errors.New("usage: clients serve NAME [HOST...] | clients call HOST OVERRIDE | clients once URL | clients hold URL")
}
