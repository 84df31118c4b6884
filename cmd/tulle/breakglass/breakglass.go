// Package breakglass is "tulle breakglass": it opens the injector for a while, shows whether it is open and closes it.
//
// What that is, is in package webhook/breakglass; here are flags, who the user is, and words. Invariant: whatever fails
// beside the change itself, such as the list of pods that slipped through, does not keep it from being made or told.
//
//	tulle breakglass --for 15m --reason "INC-7: the controller does not start"
//	tulle breakglass
//	tulle breakglass --close
package breakglass

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/webhook/breakglass"
	"github.com/tulle-mesh/tulle/webhook/drift"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// look is the pause between looks at what --wait waits for.
const look = 2 * time.Second

// session is one command line.
type session struct {
	at     kube.Flags
	mesh   string
	open   time.Duration
	reason string
	end    bool
	wait   bool
	output string

	client kubernetes.Interface
	stderr io.Writer
}

// Command returns "tulle breakglass". Its errors are *fault.Error.
func Command() *cobra.Command {
	s := &session{}
	cmd := &cobra.Command{
		Use:   "breakglass",
		Short: "Let pods start without the mesh for a while, when the injector does not answer",
		Long: `Let pods start without the mesh for a while, when the injector does not answer.

Namespaces with the label tulle.dev/inject=enabled start no pod that the injector was not asked about. If it is away and
cannot be brought back at once, --for opens them: their pods start, without the mesh while the injector does not answer.
Who opened it, since when, until when and why is written into MutatingWebhookConfiguration tulle-injector. The
controller closes it at its time, at once if it comes back later than that; --close does so before. Run again, it
counts from now. Without flags it shows whether it is open, and which pods slipped through.

An upgrade of Tulle meanwhile closes it.`,
		Example: `  tulle breakglass --for 15m --reason 'INC-7: the controller does not start'
  tulle breakglass
  tulle breakglass --close`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.Misused(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]), "run \""+cmd.CommandPath()+" --help\" for the flags")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(cmd.Flags().Changed("for")); err != nil {
				return err
			}
			client, err := s.at.Client()
			if err != nil {
				return fault.Failed(fmt.Errorf("there is no way to a cluster: %w", err), kube.Hint)
			}
			s.client, s.stderr = client, cmd.ErrOrStderr()
			return s.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	s.at.Add(f)
	f.StringVar(&s.mesh, "mesh-namespace", "tulle", "namespace that Tulle runs in")
	f.DurationVar(&s.open, "for", 0, "open it, or prolong it, for so long from now, 24h at most")
	f.StringVar(&s.reason, "reason", "", "why, for those who ask later; goes with --for")
	f.BoolVar(&s.end, "close", false, "close it now")
	f.BoolVar(&s.wait, "wait", false, "stay until its time, and close it then, whether a controller is there or not")
	f.StringVarP(&s.output, "output", "o", "text", "form of what goes to stdout: text or json")
	return cmd
}

// check refuses flags that do not go together.
func (s *session) check(opens bool) error {
	switch {
	case opens && s.end:
		return fault.Misused(errors.New("--for opens and --close closes: only one of them can be done"), "leave one of them out")
	case opens && s.open <= 0:
		return fault.Misused(fmt.Errorf("--for is %s, which is no time to be open", s.open), "say for how long, as in --for 15m")
	case s.open > breakglass.Longest:
		return fault.Misused(fmt.Errorf("--for is %s, and 24h is the longest", s.open), "open it for less, and prolong it if need be; \"kubectl label namespace NAME tulle.dev/inject=best-effort --overwrite\" is for good")
	case opens && strings.TrimSpace(s.reason) == "":
		return fault.Misused(errors.New("--for goes with --reason: somebody will want to know why pods ran without the mesh"), "say why, as in --reason \"INC-7: the controller does not start\"")
	case s.reason != "" && !opens:
		return fault.Misused(errors.New("--reason goes with --for"), "say for how long, as in --for 15m")
	case s.wait && s.end:
		return fault.Misused(errors.New("--close closes now: there is nothing to wait for"), "leave --wait out")
	case s.output != "text" && s.output != "json":
		return fault.Misused(fmt.Errorf("-o %q is unknown", s.output), "it is one of text, json")
	}
	return nil
}

func (s *session) say(format string, args ...any) { fmt.Fprintf(s.stderr, format+"\n", args...) }

func (s *session) run(ctx context.Context, stdout io.Writer) error {
	state, err := s.act(ctx)
	var unreached *url.Error
	switch {
	case errors.Is(err, breakglass.ErrNotInstalled):
		return fault.Failed(err, "there is nothing to open: Tulle is not installed in this cluster, or without its injector")
	case apierrors.IsForbidden(err):
		return fault.Failed(err, "it takes the right to get and patch mutatingwebhookconfigurations.admissionregistration.k8s.io")
	case errors.As(err, &unreached):
		return fault.Failed(err, kube.Hint)
	case err != nil:
		return fault.Failed(err, "")
	}
	if s.wait && state.Open != nil {
		s.say("It is open until %s, by %s: %s. Waiting for that to close it.", stamp(state.Open.Until), state.Open.By, state.Open.Reason)
		if state, err = s.await(ctx); err != nil {
			return err
		}
	}
	return s.print(ctx, stdout, state)
}

// act does what the flags ask for.
func (s *session) act(ctx context.Context) (breakglass.State, error) {
	switch {
	case s.open > 0:
		by := s.who(ctx)
		state, err := breakglass.Open(ctx, s.client, breakglass.Request{By: by, Reason: s.reason, For: s.open})
		if state.Active() { // even if it could not be tidied up after that
			s.say("Break-glass is open: while the injector does not answer, pods of namespaces with tulle.dev/inject=enabled start without the mesh,")
			s.say("without its TLS and its rules. Pods that are made while it answers are injected as ever.")
			s.warn(ctx, state)
		}
		return state, err
	case s.end:
		state, ended, err := breakglass.Close(ctx, s.client)
		switch {
		case ended: // even if it could not be tidied up after that
			s.say("Break-glass is closed: pods of namespaces with tulle.dev/inject=enabled wait for the injector again.")
		case err != nil:
		case state.Policy == "Ignore":
			return state, errors.New("break-glass is not open, yet the failurePolicy of " + breakglass.Entry + " is Ignore: somebody has changed it by hand; to set it back, install Tulle again")
		default:
			s.say("Break-glass is not open.")
		}
		return state, err
	}
	return breakglass.Read(ctx, s.client)
}

// who asks the API server who we are. An emergency does not wait for the answer: what is not said is unknown, and the
// API server's own audit log has it.
func (s *session) who(ctx context.Context) string {
	review, err := s.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		s.say("warning: the API server does not say who you are (%v)", err)
		return "unknown"
	}
	return review.Status.UserInfo.Username
}

// warn says if nobody is there to close it.
func (s *session) warn(ctx context.Context, state breakglass.State) {
	if s.wait {
		return
	}
	d, err := s.client.AppsV1().Deployments(s.mesh).Get(ctx, "tulle-controller", metav1.GetOptions{})
	switch {
	case err != nil:
		s.say("warning: cannot see whether a controller is there to close it at %s (%v); with --wait this command does", stamp(state.Open.Until), err)
	case d.Status.ReadyReplicas == 0:
		s.say("warning: no controller is ready. Unless one is back by then, it stays open after %s, until one is back or \"tulle breakglass --close\" is run; with --wait this command closes it.", stamp(state.Open.Until))
	}
}

// await waits for the end of the period, and brings it about if nobody else does.
func (s *session) await(ctx context.Context) (breakglass.State, error) {
	failing := false
	for {
		state, err := breakglass.Read(ctx, s.client)
		if err == nil && state.Overdue(time.Now()) {
			state, _, err = breakglass.Close(ctx, s.client)
		}
		switch {
		case err == nil && state.Open == nil:
			s.say("Break-glass is closed: pods of namespaces with tulle.dev/inject=enabled wait for the injector again.")
			return state, nil
		case err != nil && ctx.Err() == nil && !failing:
			failing = true
			s.say("warning: %v; trying again", err)
		case err == nil:
			failing = false
		}
		pause := look
		if err == nil {
			pause = max(min(pause, time.Until(state.Open.Until)), look/10)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return state, fault.Failed(errors.New("interrupted, and break-glass is still open"), "\"tulle breakglass --close\" closes it")
		}
	}
}

// report is what goes to stdout.
type report struct {
	Active bool `json:"active"`
	breakglass.State
	Slipped []drift.Pod `json:"slippedThrough"`
}

// print prints the state, and the pods that slipped through in the period that is open, or was last.
func (s *session) print(ctx context.Context, to io.Writer, state breakglass.State) error {
	period := state.Last
	r := report{Active: state.Active(), State: state, Slipped: []drift.Pod{}}
	if state.Open != nil {
		p := *state.Open
		p.Until = time.Now().Add(time.Minute) // all until now, by any clock
		period = &p
	}
	if period != nil {
		pods, err := s.drifted(ctx)
		if err != nil {
			s.say("warning: cannot tell which pods slipped through: %v", err)
		}
		r.Slipped = append(r.Slipped, breakglass.Slipped(pods, *period)...)
	}
	if s.output == "json" {
		e := json.NewEncoder(to)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	switch {
	case state.Active() && time.Until(state.Open.Until) > 0:
		row("break-glass", "open, for %s more", time.Until(state.Open.Until).Round(time.Second))
		row("until", "%s", stamp(state.Open.Until))
	case state.Active():
		row("break-glass", "open, though its time is over: no controller has closed it")
		row("until", "%s", stamp(state.Open.Until))
	case state.Open != nil:
		row("break-glass", "closed: somebody has set the failurePolicy back to %s, an upgrade most likely", state.Policy)
	case state.Policy == "Ignore":
		row("break-glass", "closed, but somebody has set the failurePolicy of %s to Ignore by hand, and nobody sets it back", breakglass.Entry)
	default:
		row("break-glass", "closed")
	}
	switch {
	case state.Open != nil:
		row("since", "%s", stamp(state.Open.Since))
		row("by", "%s", state.Open.By)
		row("reason", "%s", state.Open.Reason)
	case state.Last != nil:
		row("last", "%s to %s", stamp(state.Last.Since), stamp(state.Last.Until))
		row("by", "%s", state.Last.By)
		row("reason", "%s", state.Last.Reason)
	}
	if period != nil {
		row("slipped through", "%d pods that run without the mesh", len(r.Slipped))
	}
	if len(r.Slipped) > 0 {
		fmt.Fprint(w, "\nNAMESPACE\tPOD\tWORKLOAD\tCREATED\n")
		for _, p := range r.Slipped {
			owner := "-"
			if p.Owner.Kind != "" {
				owner = p.Owner.String()
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Namespace, p.Name, owner, stamp(p.Created))
		}
	}
	if err := w.Flush(); err != nil {
		return fault.Failed(fmt.Errorf("write the state: %w", err), "")
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// drifted lists the pods that escaped. Whether one did depends neither on the roots of the mesh nor on nodes.
func (s *session) drifted(ctx context.Context) ([]drift.Pod, error) {
	config := settings.Default()
	config.Namespace = s.mesh
	switch object, err := s.client.CoreV1().ConfigMaps(s.mesh).Get(ctx, "tulle-controller", metav1.GetOptions{}); {
	case err == nil:
		if config, err = settings.Parse("controller.yaml", []byte(object.Data["controller.yaml"])); err != nil {
			return nil, fmt.Errorf("read ConfigMap tulle-controller in namespace %s: %w", s.mesh, err)
		}
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read the settings of Tulle: %w", err)
	}
	cfg := config.Config(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})))
	return drift.List(ctx, s.client, cfg)
}
