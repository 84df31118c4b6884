package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Every is how often a Probe tries, give or take a tenth.
const Every = time.Minute

// probeTimeout is longer than an API server waits for any webhook.
const probeTimeout = 35 * time.Second

// entry is the webhook's that is asked about the probe's pod.
const entry = "inject.tulle.dev"

// labelMode is the label that the injector writes on each pod it lets into the mesh.
const labelMode = "tulle.dev/mode"

// Cause is why a probe failed; empty if it did not.
type Cause string

// Causes. The list is closed: they are values of a metric's label.
const (
	CauseTimeout     Cause = "timeout"      // the API server called the injector and got no answer in time
	CauseRefused     Cause = "refused"      // it could not connect, or was cut off
	CauseNoEndpoint  Cause = "no_endpoint"  // the Service is not there, or leads nowhere
	CauseCertificate Cause = "certificate"  // it does not trust the injector's certificate
	CauseWebhook     Cause = "webhook"      // the call failed in another way
	CauseDenied      Cause = "denied"       // the injector refused the pod
	CauseNotInjected Cause = "not_injected" // the pod was admitted as it is: the injector was not asked
	CauseRejected    Cause = "rejected"     // another webhook or policy refused the pod, or could not be asked
	CauseForbidden   Cause = "forbidden"    // the controller may not make pods in the namespace
	CauseNamespace   Cause = "namespace"    // the namespace is not there
	CauseAPI         Cause = "api"          // the API server did not answer
	CauseOther       Cause = "other"
)

// Causes returns all causes.
func Causes() []Cause {
	return []Cause{CauseTimeout, CauseRefused, CauseNoEndpoint, CauseCertificate, CauseWebhook, CauseDenied, CauseNotInjected,
		CauseRejected, CauseForbidden, CauseNamespace, CauseAPI, CauseOther}
}

// Hint says what would repair it, or nothing where the message does.
func (c Cause) Hint() string {
	switch c {
	case CauseTimeout:
		return "let the control plane reach port 8443 of the controller's pods: in private clusters by a firewall rule; with a network for pods that the control plane is not part of, by one that it is"
	case CauseRefused:
		return "see whether the controller's pods listen at their port 8443, and whether something between them and the control plane turns connections away"
	case CauseNoEndpoint:
		return "see that the Service tulle-controller is there and that pods of the controller are ready"
	case CauseCertificate:
		return "see that nobody else writes the caBundle of MutatingWebhookConfiguration tulle-injector, and the controller's log for why it cannot"
	case CauseNotInjected:
		return "see that MutatingWebhookConfiguration tulle-injector is there with failurePolicy Fail, and that the namespace has the label tulle.dev/inject=enabled"
	case CauseRejected:
		return "exempt the probe's namespace from that webhook or policy"
	case CauseForbidden, CauseNamespace:
		return "install the chart again, which makes the namespace and the controller's rights in it"
	}
	return ""
}

// Outcome is what a probe found.
type Outcome struct {
	At      time.Time // when it ended
	Took    time.Duration
	Cause   Cause
	Message string // what the API server said; empty without a cause
}

// ProbeConfig is what a Probe needs.
type ProbeConfig struct {
	Client kubernetes.Interface
	// Namespace is one whose pods are injected; the controller may make pods in it.
	Namespace string
	// Registerer receives the metrics.
	Registerer prometheus.Registerer
	// Logger hears when probes begin to fail, when they fail for another cause, and when they succeed again.
	Logger *slog.Logger
}

// Probe has the API server admit a pod now and then, without storing it: through the webhook's configuration, its
// Service and the network, as any pod. It tells, and changes nothing: above all no replica is less ready for it, since
// what breaks the way breaks it for all replicas, and pods that opted for best effort would lose the others too.
type Probe struct {
	cfg      ProbeConfig
	last     atomic.Pointer[Outcome]
	failures *prometheus.CounterVec
}

// NewProbe returns a Probe. The error is that of registering metrics.
func NewProbe(cfg ProbeConfig) (*Probe, error) {
	p := &Probe{cfg: cfg, failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_injector_probe_failures_total",
		Help: "Probes of the injector that failed, by cause.",
	}, []string{"cause"})}
	for _, c := range Causes() {
		p.failures.WithLabelValues(string(c))
	}
	gauge := func(name, help string, value func(Outcome) float64) error {
		return cfg.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tulle_injector_probe_" + name, Help: help}, func() float64 {
			if o := p.last.Load(); o != nil {
				return value(*o)
			}
			return 0
		}))
	}
	return p, errors.Join(cfg.Registerer.Register(p.failures),
		gauge("success", "Whether the last probe of the injector got its pod injected; 0 before the first one.", func(o Outcome) float64 {
			if o.Cause != "" {
				return 0
			}
			return 1
		}),
		gauge("duration_seconds", "How long the last probe of the injector took.", func(o Outcome) float64 { return o.Took.Seconds() }),
		gauge("timestamp_seconds", "When the last probe of the injector ended, in seconds since 1970; 0 before the first one.", func(o Outcome) float64 { return float64(o.At.Unix()) }),
	)
}

// Last returns what the last probe found, false before the first one.
func (p *Probe) Last() (Outcome, bool) {
	if o := p.last.Load(); o != nil {
		return *o, true
	}
	return Outcome{}, false
}

// Run probes until ctx is done, and then returns nil. The first probe is after some seconds: by then the Service leads
// here.
func (p *Probe) Run(ctx context.Context) error {
	for wait := Every / 6; ; wait = Every {
		timer := time.NewTimer(time.Duration(float64(wait) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		p.Try(ctx)
	}
}

// Try probes once, and notes what it found unless ctx has ended meanwhile.
func (p *Probe) Try(ctx context.Context) Outcome {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	pod, err := p.cfg.Client.CoreV1().Pods(p.cfg.Namespace).Create(limited, probePod(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	o := Outcome{At: time.Now(), Took: time.Since(began)}
	if o.Cause = classify(err); err != nil {
		o.Message = err.Error()
	} else if pod.Labels[labelMode] == "" {
		o.Cause, o.Message = CauseNotInjected, fmt.Sprintf("a pod of namespace %s was admitted without being injected", p.cfg.Namespace)
	}
	if ctx.Err() != nil {
		return o
	}
	was := p.last.Swap(&o)
	if o.Cause != "" {
		p.failures.WithLabelValues(string(o.Cause)).Inc()
	}
	switch {
	case o.Cause != "" && (was == nil || was.Cause != o.Cause):
		p.cfg.Logger.Warn("the API server does not get pods injected: a probe failed", "cause", o.Cause, "message", o.Message, "hint", o.Cause.Hint())
	case o.Cause == "" && was != nil && was.Cause != "":
		p.cfg.Logger.Info("the API server gets pods injected again", "was", was.Cause)
	}
	return o
}

// classify says what an answer of the API server means. What went wrong on the way to a webhook is in the text alone.
func classify(err error) Cause {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &status):
		return CauseAPI
	}
	text := err.Error()
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	if has(`failed calling webhook "` + entry + `"`) {
		switch {
		case has("x509:", "tls:"):
			return CauseCertificate
		case has("no endpoints available", "no service port", `service "`):
			return CauseNoEndpoint
		case has("connection refused", "connection reset", "EOF"):
			return CauseRefused
		case has("deadline exceeded", "Client.Timeout", "i/o timeout", "no route to host", "network is unreachable"):
			return CauseTimeout
		}
		return CauseWebhook
	}
	switch code := status.Status().Code; {
	case has(`admission webhook "` + entry + `" denied the request`):
		return CauseDenied
	case code == http.StatusNotFound:
		return CauseNamespace
	case code == http.StatusForbidden && has("cannot create resource"):
		return CauseForbidden
	case code == http.StatusForbidden || has("failed calling webhook", "denied the request", "denied request"):
		return CauseRejected
	case code == http.StatusTooManyRequests || code >= http.StatusInternalServerError:
		return CauseAPI
	}
	return CauseOther
}

// probePod returns a pod that the strictest cluster admits, and no kubelet ever sees.
func probePod() *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "probe"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			SecurityContext:              &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "probe", Image: "tulle.dev/never-pulled",
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}
}
