// Command packages makes sure that this machine has the programs that `make test` needs. As root on
// Debian or Ubuntu it installs what is missing; elsewhere it names the command that does, and fails.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := debian.Ensure(ctx, debian.Test(), true, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
