package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/capture"
)

const (
	// awaitEvery is how often a proxy that is not ready is asked again.
	awaitEvery = 100 * time.Millisecond
	// lingerEvery is how often the sockets of the pod are looked at.
	lingerEvery = 250 * time.Millisecond
	// quiet is how many looks in a row must find nothing of an application whose
	// ports are not known.
	quiet = 8
)

// await returns the command of a container's postStart hook that holds up the
// containers after it until the proxy is ready.
func await() *cobra.Command {
	var port uint16
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "await",
		Short: "Wait until the proxy of this pod is ready, for a postStart hook",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().Uint16Var(&port, "admin-port", 9990, "port of the proxy's /admin/ready")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		url := "http://" + net.JoinHostPort(adminHost(os.Getenv), strconv.Itoa(int(port))) + "/admin/ready"
		transport := &http.Transport{DisableKeepAlives: true} // and without a proxy, ours least of all
		client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
		reason := errors.New("it was not asked")
		tick := time.NewTicker(awaitEvery)
		defer tick.Stop()
		for {
			err := ask(ctx, client, url)
			if err == nil {
				return nil
			}
			if ctx.Err() == nil {
				reason = err // the end of the time is no reason
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("the proxy is not ready after %s: %w", timeout, reason)
			}
		}
	}
	return cmd
}

// adminHost returns where the proxy's admin port is, by the setting that the hook shares with it: loopback, unless it
// listens on one address only.
func adminHost(getenv func(string) string) string {
	host, _, _ := net.SplitHostPort(getenv("TULLE_ADMIN"))
	if ip, err := netip.ParseAddr(host); err != nil || ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}

// ask returns why the proxy is not ready.
func ask(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		var opErr *net.OpError
		if errors.As(err, &opErr) {
			return opErr // without the URL
		}
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	return errors.New(strings.Join(strings.Fields(string(text)), " "))
}

// linger returns the command of a container's preStop hook that lets the proxy
// outlive the application.
func linger() *cobra.Command {
	var list string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "linger",
		Short: "Wait until the application of this pod has ended, for a preStop hook",
		Long: `Waits until nobody listens any more on the ports of the application. Without
--ports, it waits until nobody in the pod but the proxy has listened on any port
or has held a connection to the proxy for two seconds. It looks at the kernel's
table of sockets and opens no connection. Time that is up is no failure.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&list, "ports", "", "ports of the application, such as 8080,9090")
	cmd.Flags().DurationVar(&timeout, "timeout", 25*time.Second, "how long to wait at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ports, err := capture.ParsePorts(list)
		if err != nil {
			return cli.Misused(fmt.Errorf("ports: %w", err))
		}
		app := application{ports: ports, own: ownPorts(os.Getenv)}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		return outlive(ctx, app.there, len(ports) == 0)
	}
	return cmd
}

// outlive waits until there is no sign of the application, for a while if unsure,
// or ctx ends.
func outlive(ctx context.Context, there func() (bool, error), unsure bool) error {
	needed := 1
	if unsure {
		needed = quiet
	}
	tick := time.NewTicker(lingerEvery)
	defer tick.Stop()
	for none := 0; ; {
		is, err := there()
		if err != nil {
			return fmt.Errorf("cannot see whether the application has ended: %w", err)
		}
		if none++; is {
			none = 0
		}
		if none >= needed {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// application is what can be seen of a pod's application from beside it.
type application struct {
	ports capture.Ports // nil if they are not known
	own   ports         // of the proxy
}

// ports are those of the proxy, 0 for one that is not known.
type ports struct{ outgoing, incoming, admin uint16 }

// ownPorts reads the proxy's ports from the settings that the hook shares with it.
func ownPorts(getenv func(string) string) ports {
	c := sidecar.DefaultConfig()
	of := func(variable, address string) uint16 {
		_, text, _ := net.SplitHostPort(cmp.Or(getenv(variable), address))
		n, _ := strconv.ParseUint(text, 10, 16)
		return uint16(n)
	}
	return ports{of("TULLE_OUTGOING", c.Outgoing), of("TULLE_INCOMING", c.Incoming), of("TULLE_ADMIN", c.Admin)}
}

// table is the kernel's table of sockets of IPv4; that of IPv6 is table with a 6.
const table = "/proc/thread-self/net/tcp"

// there reports whether the application is.
func (a application) there() (bool, error) {
	// The thread's own network: /proc/net is that of the process' first thread, which may be in another one in tests.
	for _, path := range []string{table, table + "6"} {
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) && path != table {
			continue // a kernel without IPv6
		}
		if err != nil {
			return false, err
		}
		is, err := a.in(file)
		_ = file.Close()
		if is || err != nil {
			return is, err
		}
	}
	return false, nil
}

// The states of a socket in that table, of net/tcp_states.h.
const (
	established = "01"
	listening   = "0A"
)

// in reports whether a table of sockets, as proc(5) describes it, shows it.
func (a application) in(table io.Reader) (bool, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 {
			continue
		}
		local, okLocal := hexPort(f[1])
		remote, okRemote := hexPort(f[2])
		if !okLocal || !okRemote {
			continue // the heading
		}
		switch {
		case a.ports != nil:
			if f[3] == listening && a.ports.Has(local) {
				return true, nil
			}
		case f[3] == listening && local != a.own.outgoing && local != a.own.incoming && local != a.own.admin,
			// Of a connection that was redirected only the proxy's end shows the proxy's port. It leaves this state
			// when the application's end is closed.
			f[3] == established && (remote == a.own.outgoing || local == a.own.outgoing):
			return true, nil
		}
	}
	return false, lines.Err()
}

// hexPort reads the port of ADDRESS:PORT, both hexadecimal.
func hexPort(s string) (uint16, bool) {
	_, text, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(text, 16, 16)
	return uint16(n), ok && err == nil
}
