package breakglass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/webhook/drift"
)

// every is the pause between looks at the configuration.
const every = 5 * time.Second

// answer bounds one look.
const answer = 30 * time.Second

// KeeperConfig is what a Keeper needs; all of it is required.
type KeeperConfig struct {
	Client kubernetes.Interface
	// Drifted lists the pods that are not as they should be.
	Drifted    func(context.Context) ([]drift.Pod, error)
	Registerer prometheus.Registerer
	// Logger hears when it is opened and closed, and what has slipped through.
	Logger *slog.Logger
}

// Keeper closes the injector at its time. Every replica may have one: who closes it, tells.
type Keeper struct {
	cfg   KeeperConfig
	state atomic.Pointer[State]
}

// NewKeeper returns a Keeper that does nothing yet. The error is that of registering metrics.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	k := &Keeper{cfg: cfg}
	return k, cfg.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tulle_injector_breakglass_open",
		Help: "Whether break-glass is open: pods of namespaces that are enabled start without the mesh while the injector does not answer.",
	}, func() float64 {
		if s := k.state.Load(); s != nil && s.Active() {
			return 1
		}
		return 0
	}))
}

// Run looks after it until ctx is done, and then returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	failing := false
	for {
		limited, cancel := context.WithTimeout(ctx, answer)
		err := k.look(limited)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if (err != nil) != failing {
			failing = err != nil
			if failing {
				k.cfg.Logger.Warn("cannot see whether break-glass is open, or cannot close it", "error", err)
			}
		}
		wait := every
		if s := k.state.Load(); s != nil && s.Open != nil && !failing {
			wait = max(min(wait, time.Until(s.Open.Until)), 100*time.Millisecond)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// look reads the state, and closes what is to be closed.
func (k *Keeper) look(ctx context.Context) error {
	s, err := Read(ctx, k.cfg.Client)
	if err != nil && !errors.Is(err, ErrNotInstalled) { // there may be no webhook: then nothing is open
		return err
	}
	was := k.state.Swap(&s)
	if s.Open != nil && (was == nil || was.Open == nil || *was.Open != *s.Open) {
		k.cfg.Logger.Warn("break-glass is open: pods of namespaces that are enabled start without the mesh while the injector does not answer",
			"by", s.Open.By, "reason", s.Open.Reason, "since", s.Open.Since, "until", s.Open.Until)
	}
	if !s.Overdue(time.Now()) {
		return nil
	}
	why := "its time is over"
	if s.Policy != "Ignore" {
		why = "somebody has set the failurePolicy back"
	}
	s, ended, err := closeIf(ctx, k.cfg.Client, func(s State) bool { return s.Overdue(time.Now()) })
	if !ended || s.Last == nil {
		return err
	}
	k.state.Store(&s)
	k.tell(ctx, *s.Last, why)
	return err
}

// tell says what has slipped through.
func (k *Keeper) tell(ctx context.Context, p Period, why string) {
	message := fmt.Sprintf("break-glass, opened by %s at %s (%s), is closed: %s. ", p.By, p.Since.Format(time.RFC3339), p.Reason, why)
	severity := corev1.EventTypeNormal
	pods, err := k.cfg.Drifted(ctx)
	switch slipped := Slipped(pods, p); {
	case err != nil:
		message += "Which pods slipped through is not known: " + err.Error()
	case len(slipped) == 0:
		message += "No pod slipped through that still runs."
	default:
		severity = corev1.EventTypeWarning
		message += fmt.Sprintf("%d pods slipped through and run outside of the mesh: %s", len(slipped), names(slipped, 10))
		for _, pod := range slipped {
			k.cfg.Logger.Warn("a pod slipped through while break-glass was open", "pod", pod.Namespace+"/"+pod.Name, "workload", pod.Owner.String(), "created", pod.Created)
		}
	}
	k.cfg.Logger.Warn(message)
	now := metav1.Now()
	if _, err := k.cfg.Client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: Configuration + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration", Name: Configuration,
		},
		Reason: "BreakGlassClosed", Type: severity, Message: message[:min(len(message), 1000)],
		Source: corev1.EventSource{Component: "tulle-injector"}, FirstTimestamp: now, LastTimestamp: now, Count: 1, ReportingController: "tulle.dev/injector",
	}, metav1.CreateOptions{}); err != nil {
		k.cfg.Logger.Warn("cannot write an event about break-glass", "error", err)
	}
}
