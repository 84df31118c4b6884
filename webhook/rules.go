package webhook

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// rule is one line of the table by which pods are judged.
type rule struct {
	name string
	// judge looks at one thing. It returns a Result if that decides about the pod, and nil to pass the
	// question on to the next rule. What it finds, it says in words to whoever wants to read them.
	judge func(*admission) (*Result, error)
}

// rules is the table. The first rule that decides, decides: those before "earlier injection" read only labels
// and annotations, what follows looks into the pod.
func rules() []rule {
	return []rule{
		{"excluded namespace", (*admission).judgeExcluded},
		{"opt-out", (*admission).judgeOptOut},
		{"namespace", (*admission).judgeNamespace},
		{"label", (*admission).judgeLabel},
		{"kind of pod", (*admission).judgeKind},
		{"mode", (*admission).judgeMode},
		{"annotations", (*admission).judgeAnnotations},
		{"ports", (*admission).judgePorts},
		{"containers", (*admission).judgeContainers},
		{"capture", (*admission).judgeCapture},
		{"resources", (*admission).judgeResources},
		{"earlier injection", (*admission).judgeEarlier},
		{"plan", (*admission).judgePlan},
		{"patch", (*admission).write},
	}
}

// admission is one question on its way through the rules.
type admission struct {
	came    podView // as it came
	pod     podView // as it was before an earlier injection
	earlier *Status // that injection, if there was one
	ns      Namespace
	cfg     Config // with defaults
	mode    Mode
	ports   ports
	// skip are the containers that get no environment, conflict is what becomes of one with its own proxy.
	skip     []string
	conflict string
	plan     plan
	hash     string
	// warnings of the rules so far.
	warnings []string
	// said is what the rule at hand has to say; explain is whether anybody listens.
	explain bool
	said    string
}

// plan lists what a mode adds to a pod.
type plan struct {
	// Init and Containers go before the pod's own, in this order.
	Init       []corev1.Container `json:"init,omitempty"`
	Containers []corev1.Container `json:"containers,omitempty"`
	// InitLast go behind the pod's own init containers.
	InitLast []corev1.Container `json:"initLast,omitempty"`
	// Volumes go behind the pod's own.
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// PullSecrets go behind the pod's own, unless they are there.
	PullSecrets []string `json:"pullSecrets,omitempty"`
	// Annotations are set, whatever the pod has there; a plan that means to extend a value holds all of it.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Env is what the pod's own containers get; nil: they stay as they are.
	Env *environment `json:"env,omitempty"`
	// NoInit is whether the pod's init containers stay as they are: they run before the proxy does.
	NoInit bool `json:"noInit,omitempty"`
}

// say notes what a rule found.
func (a *admission) say(format string, args ...any) {
	if a.explain {
		a.said = fmt.Sprintf(format, args...)
	}
}

func (a *admission) judgeExcluded() (*Result, error) {
	if slices.Contains(ExcludedNamespaces(a.cfg.MeshNamespace), a.ns.Name) || slices.Contains(a.cfg.ExcludedNamespaces, a.ns.Name) {
		a.say("namespace %s is never injected", a.ns.Name)
		return &Result{Reason: NamespaceExcluded}, nil
	}
	a.say("namespace %s is not one of those that are never injected", a.ns.Name)
	return nil, nil
}

func (a *admission) judgeOptOut() (*Result, error) {
	if v, ok := a.pod.label(LabelInject); ok && v == "false" {
		a.say("the pod's label %s is false", LabelInject)
		return &Result{Reason: OptedOut}, nil
	}
	a.say("the pod's label %s is not false", LabelInject)
	return nil, nil
}

func (a *admission) judgeNamespace() (*Result, error) {
	switch v, ok := a.ns.Labels[LabelInject]; {
	case !ok:
		a.say("namespace %s has no label %s: it takes %s or %s", a.ns.Name, LabelInject, NamespaceEnabled, NamespaceBestEffort)
		return &Result{Reason: NotEnabled}, nil
	case v == NamespaceEnabled:
		a.say("namespace %s has the label %s=%s: no pod of it starts unmeshed", a.ns.Name, LabelInject, v)
		return nil, nil
	case v == NamespaceBestEffort:
		a.say("namespace %s has the label %s=%s: while the injector is away, its pods start unmeshed", a.ns.Name, LabelInject, v)
		return nil, nil
	case v == NamespaceDisabled:
		a.say("namespace %s has the label %s=%s", a.ns.Name, LabelInject, v)
		return &Result{Reason: NotEnabled}, nil
	default:
		return denial(InvalidInject, fmt.Sprintf("the label %s of namespace %s is %s, allowed: %s, %s, %s", LabelInject, a.ns.Name, quote(v), NamespaceEnabled, NamespaceBestEffort, NamespaceDisabled),
			"correct it, or remove it to keep the namespace out of the mesh"), nil
	}
}

func (a *admission) judgeLabel() (*Result, error) {
	v, ok := a.pod.label(LabelInject)
	if ok && v != "true" {
		return denial(InvalidInject, fmt.Sprintf("the pod's label %s is %s, allowed: true, false", LabelInject, quote(v)),
			"correct the label in the pod template, or remove it to follow the namespace"), nil
	}
	a.say("the pod follows its namespace")
	return nil, nil
}

func (a *admission) judgeKind() (*Result, error) {
	if _, ok := a.pod.annotation(corev1.MirrorPodAnnotationKey); ok {
		a.say("the pod is the kubelet's picture of a static pod")
		return &Result{Reason: MirrorPod}, nil
	}
	if a.pod.windows() {
		a.say("the pod asks for Windows")
		return &Result{Reason: WindowsPod, Warnings: []string{fmt.Sprintf(
			"the pod asks for Windows, where no proxy of Tulle's runs, and is not meshed; to be rid of this warning label it %s: \"false\"", LabelInject)}}, nil
	}
	a.say("the pod is one that can be meshed")
	return nil, nil
}

// judgeMode finds the pod's mode, or the denial that says why there is none.
func (a *admission) judgeMode() (*Result, error) {
	value, ok := a.pod.annotation(AnnotationMode)
	where, remedy := "the pod's annotation "+AnnotationMode, "the namespace"
	if !ok {
		value, ok = a.ns.Labels[LabelMode]
		where, remedy = "the label "+LabelMode+" of namespace "+a.ns.Name, "the cluster's default"
	}
	if !ok {
		a.mode = a.cfg.DefaultMode
		where = "the cluster's default; neither pod nor namespace says one"
	} else if a.mode = Mode(value); !a.mode.valid() {
		return denial(InvalidMode, fmt.Sprintf("%s is %s, allowed: %s", where, quote(value), listModes()),
			"correct it, or remove it to follow "+remedy), nil
	}
	a.say("the mode is %s: so says %s", a.mode, where)
	if a.mode == ModeNone {
		return a.decideNone(), nil
	}
	return nil, nil
}

// decideNone decides about a pod that is to be in no mode.
func (a *admission) decideNone() *Result {
	res := &Result{Reason: ModeIsNone}
	if a.pod.injected() {
		res.Warnings = []string{fmt.Sprintf("the pod is not to be meshed but carries an injection, as its annotation %s says; take it out of the template with tulle uninject", AnnotationStatus)}
	}
	return res
}

// maxAnnotation bounds the values of our annotations. None that means something comes near.
const maxAnnotation = 4096

func (a *admission) judgeAnnotations() (*Result, error) {
	for _, key := range Annotations() {
		if v, _ := a.pod.annotation(key); len(v) > maxAnnotation {
			return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %s, of %d bytes, allowed: %d", key, quote(v), len(v), maxAnnotation),
				"correct it, or remove it"), nil
		}
	}
	a.say("no annotation is longer than %d bytes", maxAnnotation)
	return nil, nil
}

// judgePorts finds the ports of the pod's proxy, or the denial that says what is wrong with them.
func (a *admission) judgePorts() (*Result, error) {
	p := ports{a.cfg.OutgoingPort, a.cfg.IncomingPort, a.cfg.AdminPort}
	for _, o := range []struct {
		key  string
		port *int
	}{{AnnotationOutgoingPort, &p.Outgoing}, {AnnotationIncomingPort, &p.Incoming}, {AnnotationAdminPort, &p.Admin}} {
		value, ok := a.pod.annotation(o.key)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || !usablePort(n) {
			return denial(InvalidPort, fmt.Sprintf("the pod's annotation %s is %s, allowed: %d to %d", o.key, quote(value), minPort, maxPort),
				"correct it, or remove it for the default, "+strconv.Itoa(*o.port)), nil
		}
		*o.port = n
	}
	if a.mode == ModeSidecar && (p.Outgoing == p.Incoming || p.Outgoing == p.Admin || p.Incoming == p.Admin) {
		return denial(InvalidPort, fmt.Sprintf("the ports of the sidecar are not different: outgoing %d, incoming %d, admin %d", p.Outgoing, p.Incoming, p.Admin),
			fmt.Sprintf("change the annotations %s, %s, %s", AnnotationOutgoingPort, AnnotationIncomingPort, AnnotationAdminPort)), nil
	}
	a.ports = p
	if a.mode == ModeSidecar {
		a.say("the sidecar's ports are outgoing %d, incoming %d, admin %d", p.Outgoing, p.Incoming, p.Admin)
	} else {
		a.say("the host proxy's port is %d", p.Outgoing)
	}
	return nil, nil
}

// judgeContainers reads which containers get no environment, and what becomes of those with their own proxy.
func (a *admission) judgeContainers() (*Result, error) {
	a.conflict = ConflictLeave
	if v, ok := a.pod.annotation(AnnotationOnConflict); ok {
		if v != ConflictLeave && v != ConflictChain && v != ConflictOverride {
			return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %s, allowed: %s, %s, %s", AnnotationOnConflict, quote(v), ConflictLeave, ConflictChain, ConflictOverride),
				"correct it, or remove it for the default, "+ConflictLeave), nil
		}
		a.conflict = v
	}
	if v, ok := a.pod.annotation(AnnotationSkipContainers); ok {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.TrimSpace(name)
			if len(validation.IsDNS1123Label(name)) > 0 {
				return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %s, in which %s cannot be a container; allowed: names of containers, separated by commas", AnnotationSkipContainers, quote(v), quote(name)),
					"correct it, or remove it"), nil
			}
			if !a.pod.hasContainer(name) {
				// Not wrong for sure: another webhook may add it later.
				a.warnings = append(a.warnings, fmt.Sprintf("the pod's annotation %s names %s, but the pod has no such container", AnnotationSkipContainers, name))
			}
			a.skip = append(a.skip, name)
		}
	}
	a.say("%d containers are to be skipped, and one with its own proxy is: %s", len(a.skip), a.conflict)
	return nil, nil
}

func (a *admission) judgeCapture() (*Result, error) {
	d, warnings := checkCapture(a.pod, a.mode)
	a.warnings = append(a.warnings, warnings...)
	a.say("the annotations about capture and ports can be followed")
	return d, nil
}

func (a *admission) judgeResources() (*Result, error) {
	d := checkResources(a.pod, a.cfg)
	a.say("the annotations about resources can be followed")
	return d, nil
}

// judgeEarlier looks for what an earlier pass has left, and sees the pod without it from here on.
func (a *admission) judgeEarlier() (*Result, error) {
	s, ok := a.came.status()
	switch {
	case !ok:
		a.say("the pod carries no injection")
	case s.Version != statusVersion:
		a.say("the pod carries an injection of another version of Tulle")
		return &Result{Mode: s.Mode, Reason: AlreadyInjected, Hash: s.Hash, Warnings: []string{fmt.Sprintf(
			"the pod carries an injection of another version of Tulle, in format %s, and stays as it is; to have it done anew, leave what was injected, with the annotation %s, out of its template", quote(s.Version), AnnotationStatus)}}, nil
	default:
		a.earlier, a.pod = s, a.came.without(s)
		a.say("the pod carries an injection in mode %s, with hash %s; what follows sees the pod without", s.Mode, s.Hash)
	}
	return nil, nil
}

// judgePlan plans what the pod gets.
func (a *admission) judgePlan() (*Result, error) {
	if a.mode == ModeHost {
		a.plan = hostPlan(a.cfg, a.ports)
		if a.pod.Spec.HostNetwork {
			a.warnings = append(a.warnings, "the pod uses the host's network: its host proxy cannot tell it from its node, so short names resolve in the default namespace, and it is called without the mesh")
		}
		if policy := a.pod.Spec.DNSPolicy; a.cfg.HostAddress == "service" {
			switch {
			case a.pod.Spec.HostNetwork && policy != string(corev1.DNSClusterFirstWithHostNet):
				a.warnings = append(a.warnings, fmt.Sprintf("the pod uses its host's network and names, where %s is not known: give it dnsPolicy: %s", cut(a.cfg.HostService, 80), corev1.DNSClusterFirstWithHostNet))
			case policy == string(corev1.DNSDefault):
				a.warnings = append(a.warnings, fmt.Sprintf("the pod has its host's names (dnsPolicy: %s), where its proxy, %s, is not known: leave dnsPolicy out", policy, cut(a.cfg.HostService, 80)))
			}
		}
		a.say("the containers get the environment of host mode, with the proxy %s", a.plan.Env.Proxy)
	} else {
		plan, warnings, denied, err := sidecarPlan(a.pod, a.ns, a.cfg, a.ports)
		if err != nil || denied != nil {
			return denied, err
		}
		a.plan, a.warnings = plan, append(a.warnings, warnings...)
		a.say("the pod gets %d init containers, %d containers and %d volumes of Tulle's", len(plan.Init)+len(plan.InitLast), len(plan.Containers), len(plan.Volumes))
	}
	var err error
	a.hash, err = a.fingerprint()
	return nil, err
}

// denial is a Result that keeps the pod from being created.
func denial(r Reason, what, hint string) *Result {
	return &Result{Reason: r, Message: what + "; hint: " + hint}
}
