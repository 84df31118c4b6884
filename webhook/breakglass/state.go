package breakglass

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/tulle-mesh/tulle/webhook/drift"
)

const (
	// Configuration is the MutatingWebhookConfiguration of the injector, Entry the one that keeps pods from starting
	// while the injector does not answer.
	Configuration = "tulle-injector"
	Entry         = "inject.tulle.dev"
	// Longest is how long it may be open.
	Longest = 24 * time.Hour
)

// Annotations of the configuration while it is open, and of the last time that it was.
const (
	annotationBy     = "tulle.dev/breakglass-by"
	annotationSince  = "tulle.dev/breakglass-since"
	annotationUntil  = "tulle.dev/breakglass-until"
	annotationReason = "tulle.dev/breakglass-reason"
	annotationPolicy = "tulle.dev/breakglass-policy" // that comes back
	annotationLast   = "tulle.dev/breakglass-last"
)

// fieldManager is who changes the configuration. It gives up what it owns by that.
const fieldManager = "tulle-breakglass"

// Errors of Open.
var (
	ErrTooLong      = fmt.Errorf("it may be open for %.0f hours at most", Longest.Hours())
	ErrNotInstalled = fmt.Errorf("there is no MutatingWebhookConfiguration %s with an entry %s", Configuration, Entry)
)

// Period is a time for which it was open.
type Period struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// State is what the configuration says.
type State struct {
	// Open is the period that has begun and was not closed, nil if there is none. Its Until may have passed.
	Open *Period `json:"open,omitempty"`
	// Last is the period that was closed last, with the time of that as Until; nil if none is known.
	Last *Period `json:"last,omitempty"`
	// Policy is the failurePolicy in force. While Open is set and this is Fail, somebody else has ended the period: an
	// upgrade, most likely. If it is Ignore without Open, somebody has opened it by hand, and nobody closes it.
	Policy admissionv1.FailurePolicyType `json:"failurePolicy"`

	former admissionv1.FailurePolicyType
}

// Active reports whether pods start without the mesh now, because of a break-glass that is open.
func (s State) Active() bool { return s.Open != nil && s.Policy == admissionv1.Ignore }

// Overdue reports whether it is to be closed: its time is over, or somebody else has ended it.
func (s State) Overdue(now time.Time) bool {
	return s.Open != nil && (s.Policy != admissionv1.Ignore || !now.Before(s.Open.Until))
}

// Read returns the state. The error wraps ErrNotInstalled if there is no injector.
func Read(ctx context.Context, client kubernetes.Interface) (State, error) {
	s, _, err := read(ctx, client)
	return s, err
}

func read(ctx context.Context, client kubernetes.Interface) (State, *admissionv1.MutatingWebhookConfiguration, error) {
	c, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, Configuration, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return State{}, nil, ErrNotInstalled
	}
	if err != nil {
		return State{}, nil, fmt.Errorf("read MutatingWebhookConfiguration %s: %w", Configuration, err)
	}
	s, err := stateOf(c)
	return s, c, err
}

// stateOf is what a configuration says.
func stateOf(c *admissionv1.MutatingWebhookConfiguration) (State, error) {
	i := entry(c)
	if i < 0 {
		return State{}, ErrNotInstalled
	}
	s := State{Policy: admissionv1.Fail, former: admissionv1.Fail} // the API's default
	if p := c.Webhooks[i].FailurePolicy; p != nil {
		s.Policy = *p
	}
	if text, ok := c.Annotations[annotationUntil]; ok {
		if p := admissionv1.FailurePolicyType(c.Annotations[annotationPolicy]); p == admissionv1.Ignore {
			s.former = p
		}
		s.Open = &Period{By: c.Annotations[annotationBy], Reason: c.Annotations[annotationReason]}
		var errs [2]error
		s.Open.Until, errs[0] = time.Parse(time.RFC3339, text)
		s.Open.Since, errs[1] = time.Parse(time.RFC3339, c.Annotations[annotationSince])
		if errs[0] != nil || errs[1] != nil {
			s.Open.Until = s.Open.Since // what cannot be read is over
		}
	}
	var last Period
	if json.Unmarshal([]byte(c.Annotations[annotationLast]), &last) == nil && !last.Until.IsZero() {
		s.Last = &last
	}
	return s, nil
}

func entry(c *admissionv1.MutatingWebhookConfiguration) int {
	return slices.IndexFunc(c.Webhooks, func(w admissionv1.MutatingWebhook) bool { return w.Name == Entry })
}

// Request is what it is opened with.
type Request struct {
	By, Reason string
	For        time.Duration // from now
}

// Open opens it, or prolongs the period that is open, which then has this reason and ends this long from now. It returns
// the state that comes of it, with an error too if only what is tidied up after that has failed. The error wraps
// ErrTooLong, ErrNotInstalled or what the API server says.
func Open(ctx context.Context, client kubernetes.Interface, r Request) (State, error) {
	if r.For > Longest {
		return State{}, ErrTooLong
	}
	if r.For <= 0 || r.Reason == "" {
		return State{}, errors.New("it needs a time to be open for and a reason")
	}
	now := time.Now().UTC().Truncate(time.Second)
	return change(ctx, client, func(s State) (map[string]string, admissionv1.FailurePolicyType) {
		since, former := now, s.Policy
		if s.Active() {
			since, former = s.Open.Since, s.former
		}
		return map[string]string{
			annotationBy: r.By, annotationReason: r.Reason, annotationPolicy: string(former),
			annotationSince: since.Format(time.RFC3339), annotationUntil: now.Add(r.For).Format(time.RFC3339),
		}, admissionv1.Ignore
	})
}

// Close closes it. It returns the state that comes of it, whose Last is the period that has ended, and whether this call
// has ended it: false if it was not open.
func Close(ctx context.Context, client kubernetes.Interface) (State, bool, error) {
	return closeIf(ctx, client, func(s State) bool { return s.Open != nil })
}

func closeIf(ctx context.Context, client kubernetes.Interface, due func(State) bool) (State, bool, error) {
	closed := false
	s, err := change(ctx, client, func(s State) (map[string]string, admissionv1.FailurePolicyType) {
		if closed = due(s); !closed {
			return nil, s.Policy
		}
		now := time.Now().UTC().Truncate(time.Second)
		text, _ := json.Marshal(Period{By: s.Open.By, Reason: s.Open.Reason, Since: s.Open.Since, Until: now}) // strings and times
		return map[string]string{
			annotationBy: "", annotationReason: "", annotationPolicy: "", annotationSince: "", annotationUntil: "",
			annotationLast: string(text),
		}, s.former
	})
	return s, closed && s.Policy != "", err // a state comes with the error of what is tidied up after that
}

// change sets annotations, of which empty ones go away, and the policy; nothing if there are none to set. The state is
// what the API server answers to the change itself: to read it again could fail, and nobody would hear what was done.
func change(ctx context.Context, client kubernetes.Interface, to func(State) (map[string]string, admissionv1.FailurePolicyType)) (State, error) {
	var s State
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		was, c, err := read(ctx, client)
		if err != nil {
			return err
		}
		annotations, policy := to(was)
		if annotations == nil {
			s = was
			return nil
		}
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		for key, v := range annotations {
			if v == "" {
				delete(c.Annotations, key)
			} else {
				c.Annotations[key] = v
			}
		}
		i := entry(c)
		if c, err = patch(ctx, client, c.ResourceVersion,
			operation{"add", "/metadata/annotations", c.Annotations},
			operation{"test", fmt.Sprintf("/webhooks/%d/name", i), Entry},
			operation{"add", fmt.Sprintf("/webhooks/%d/failurePolicy", i), policy},
		); err != nil {
			return err
		}
		s, err = stateOf(c)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("change MutatingWebhookConfiguration %s: %w", Configuration, err)
	}
	return s, disown(ctx, client)
}

// disown gives up the fields that we have set, so that whoever applies the configuration next meets no conflict.
func disown(ctx context.Context, client kubernetes.Interface) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		_, c, err := read(ctx, client)
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(slices.Clone(c.ManagedFields), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == fieldManager })
		if len(kept) == len(c.ManagedFields) {
			return nil
		}
		if len(kept) == 0 {
			kept = []metav1.ManagedFieldsEntry{{}} // an empty list is no order to empty it
		}
		_, err = patch(ctx, client, c.ResourceVersion, operation{"replace", "/metadata/managedFields", kept})
		return err
	})
	if err != nil {
		return fmt.Errorf("MutatingWebhookConfiguration %s is changed, but its fields could not be given up, so that who applies it next may meet a conflict: %w", Configuration, err)
	}
	return nil
}

// operation is one of RFC 6902.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patch changes the configuration as it is in a version, and returns what comes of it; the error is a conflict if it is another one by now.
func patch(ctx context.Context, client kubernetes.Interface, version string, operations ...operation) (*admissionv1.MutatingWebhookConfiguration, error) {
	// The API server compares the version itself, and answers 409 then; a "test" would be a 422.
	text, err := json.Marshal(append(operations, operation{"add", "/metadata/resourceVersion", version}))
	if err != nil {
		return nil, fmt.Errorf("write the patch: %w", err)
	}
	return client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, Configuration, types.JSONPatchType, text, metav1.PatchOptions{FieldManager: fieldManager})
}

// Slipped returns those pods that escaped the injector because they were made while it was open.
func Slipped(pods []drift.Pod, p Period) []drift.Pod {
	var slipped []drift.Pod
	for _, pod := range pods {
		// Times of creation are whole seconds.
		if pod.Kind == drift.Escaped && !pod.Created.Before(p.Since.Truncate(time.Second)) && !pod.Created.After(p.Until) {
			slipped = append(slipped, pod)
		}
	}
	return slipped
}

// names lists pods in one line, the first ones by name.
func names(pods []drift.Pod, most int) string {
	var all []string
	for i, p := range pods {
		if i == most {
			all = append(all, fmt.Sprintf("and %d more", len(pods)-most))
			break
		}
		all = append(all, p.Namespace+"/"+p.Name)
	}
	return strings.Join(all, ", ")
}
