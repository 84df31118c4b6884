package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/cli"
)

// reachTime is how long one address may take to answer. A connection that is dropped on its way never does.
const reachTime = 5 * time.Second

// tooMany is more than server.maxCallDepth can be: a proxy answers that itself, and asks nobody (T104).
var tooMany = strings.TrimSuffix(strings.Repeat("1.1 x,", 1001), ",")

// reach returns the command of the pods by which "tulle check --from-nodes" tries the way from a pod to a proxy.
func reach() *cobra.Command {
	return &cobra.Command{
		Use:   "reach ADDRESS...",
		Short: "Say whether a proxy of Tulle answers at these addresses",
		Long: `Connects to each HOST:PORT and sends a request that a proxy of Tulle answers
itself and sends nowhere. It exits with 0 if one answered at every address, and
else with 1 and a line for each where none did. Each gets five seconds.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Misused(errors.New("no address is given\nhint: tulle-proxy reach 10.0.0.7:4140"))
			}
			for _, address := range args {
				if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
					return cli.Misused(fmt.Errorf("%q is no address, allowed: HOST:PORT, and [HOST]:PORT for IPv6", address))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var failed []error
			for _, address := range args {
				if err := reached(cmd.Context(), address); err != nil {
					failed = append(failed, fmt.Errorf("reach %s: %w", address, err)) // tulle check reads this form
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: a proxy of Tulle answers\n", address)
			}
			return errors.Join(failed...)
		},
	}
}

// reached returns why no proxy of ours answers at an address, in words that "tulle check" knows.
func reached(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Via", tooMany)
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and without a proxy, which is what is looked for
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	var name *net.DNSError
	switch {
	case err == nil:
	case errors.As(err, &name) && !name.IsTimeout:
		return fmt.Errorf("the name is not known: %s", name.Err)
	case errors.As(err, &name):
		return errors.New("the name is not known: no DNS server answers")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", reachTime)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("no way there: %w", bare(err))
	default:
		return fmt.Errorf("no proxy of Tulle: %w", bare(err)) // connected, and then no HTTP
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4<<10))
	if res.Header.Get("Tulle-Code") == "" && res.Header.Get("L5d-Err") == "" {
		return fmt.Errorf("no proxy of Tulle: something answers with status %d", res.StatusCode)
	}
	return nil
}

// bare is an error without the address that was asked.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
