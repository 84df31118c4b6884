package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/sidecar/capture"
)

// dnsPort is never redirected: a name that a proxy had to resolve to find out where
// to ask for names would be no help.
const dnsPort = 53

// redirect returns the command of the init container that has the kernel bring a
// pod's connections to its proxy.
func redirect() *cobra.Command {
	var port uint16
	var uid uint32
	var skip, opaque string
	cmd := &cobra.Command{
		Use:   "redirect",
		Short: "Have the kernel bring this pod's connections to its proxy, for an init container",
		Long: `Writes nftables rules into this pod's network namespace, in place of those of
an earlier run: TCP connections that leave the pod go to the proxy. Not so the
proxy's own, those to port 53 and to the ports that are skipped, and those to
loopback, link-local and metadata addresses. It needs the capability NET_ADMIN,
runs no other program, and opens no connection.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().Uint16Var(&port, "outgoing-port", 4140, "port of the proxy, on the loopback")
	cmd.Flags().Uint32Var(&uid, "proxy-uid", 65532, "user that the proxy runs as")
	cmd.Flags().StringVar(&skip, "skip-ports", "", "ports, such as 25,8000-8099, to which connections pass by the proxy")
	cmd.Flags().StringVar(&opaque, "opaque-ports", "", "ports whose connections the proxy does not look into; it must be told the same, here they are only checked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := capture.ParsePorts(opaque); err != nil {
			return cli.Misused(fmt.Errorf("opaque-ports: %w", err))
		}
		ports, err := capture.ParsePorts(skip)
		if err != nil {
			return cli.Misused(fmt.Errorf("skip-ports: %w", err))
		}
		rules := capture.Rules{Port: port, UID: uid, Skip: append(ports, capture.Range{First: dnsPort, Last: dnsPort})}
		if err := rules.Validate(); err != nil {
			return cli.Misused(err)
		}
		if err := capture.Apply(rules); err != nil {
			return fmt.Errorf("connections are not redirected: %w", err)
		}
		cmd.PrintErrf("TCP connections that leave this pod go to port %d; past it: those of user %d that the proxy marks, and to ports %s\n", port, uid, rules.Skip)
		return nil
	}
	return cmd
}
