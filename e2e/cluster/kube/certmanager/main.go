// Command certmanager is cert-manager as far as a mesh needs it: the controllers of the CA and
// self-signed issuers, the CA injector and the webhook, each a subcommand as each is a Deployment.
//
// cert-manager's own main packages are not importable (they are a module that is never published),
// so this is their wiring. ACME, Vault and the other issuers are left out: nothing here can reach one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cert-manager/cert-manager/pkg/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
)

var commands = map[string]func(context.Context) error{
	"controller": runControllers,
	"cainjector": runCAInjector,
	"webhook":    runWebhook,
}

func main() {
	name := ""
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	run, ok := commands[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "certmanager: unknown command %q; want controller, cainjector or webhook\n", name)
		os.Exit(2)
	}
	if err := start(run); err != nil {
		fmt.Fprintf(os.Stderr, "certmanager %s: %v\n", name, err)
		os.Exit(1)
	}
}

func start(run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logs.InitLogs()
	defer logs.FlushLogs()
	logging := logsapi.NewLoggingConfiguration()
	logging.Verbosity = 2
	if err := logs.ValidateAndApply(logging); err != nil {
		return fmt.Errorf("set up logging: %w", err)
	}
	return run(logs.NewContext(ctx, logs.Log, os.Args[1]))
}
