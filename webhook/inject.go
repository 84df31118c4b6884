package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Namespace is what the injector needs of the pod's namespace.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string // reserved: no annotation of a namespace means anything yet
}

// Result is what Inject decided.
type Result struct {
	// Patch is an RFC 6902 patch for the pod, nil if it stays as it is.
	Patch []byte
	// Mode is the mode the pod is in; empty if it is not meshed.
	Mode Mode
	// Reason is why. If Reason.Denies, the pod must not be created.
	Reason Reason
	// Message is one sentence for people, with a hint at what would be right; set if the pod is denied.
	Message string
	// Hash identifies what the pod was injected with: two pods with one hash got the same. Empty if the pod
	// is not meshed.
	Hash string
	// Warnings are sentences about what was accepted but is probably not meant.
	Warnings []string
}

// Status is the value of the annotation tulle.dev/status.
type Status struct {
	Version string `json:"version"` // of this format
	Mode    Mode   `json:"mode"`
	Hash    string `json:"hash"`
	// Env names the variables added; Containers those containers that have them.
	Env        []string `json:"env,omitempty"`
	Containers []string `json:"containers,omitempty"`
	// Left names the containers left alone, because they have a proxy of their own.
	Left           []string `json:"left,omitempty"`
	InitContainers []string `json:"initContainers,omitempty"` // added
	Volumes        []string `json:"volumes,omitempty"`        // added
}

const statusVersion = "v1"

// Inject decides about one pod, given as JSON. The pod's own namespace field is not looked at: ns is where
// it is going to live. Inject does no I/O, keeps nothing, and may be called concurrently.
//
// The rules, the first that applies decides:
//
//  1. the namespace is one of ExcludedNamespaces       → NamespaceExcluded
//  2. it lacks the label tulle.dev/inject=enabled      → NotEnabled
//  3. the pod's label tulle.dev/inject is false        → OptedOut; neither true nor false → InvalidInject
//  4. the pod is a mirror pod, or for Windows          → MirrorPod, WindowsPod
//  5. its mode (the pod's annotation, else the namespace's label, else the default) is none → InvalidMode
//  6. a port annotation is no usable port              → InvalidPort
//  7. it was injected before, with something else      → AlreadyInjected, unchanged
//  8. sidecar mode and hostNetwork                     → HostNetwork
//  9. sidecar mode, and names or ports are in use      → NameTaken, PortTaken
//  10. a needed variable is defined in another way     → EnvTaken
//  11. otherwise                                       → InjectedHost, InjectedSidecar, AppDefinesProxy, or
//     AlreadyInjected if nothing was missing
//
// The error is not nil if raw is no pod, or, with errors.Is(err, ErrConfig), if cfg cannot serve this pod.
func Inject(raw []byte, ns Namespace, cfg Config) (Result, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validateCommon(); err != nil {
		return Result{}, err
	}
	pod, err := parsePod(raw)
	if err != nil {
		return Result{}, err
	}

	if slices.Contains(ExcludedNamespaces(cfg.MeshNamespace), ns.Name) {
		return Result{Reason: NamespaceExcluded}, nil
	}
	if ns.Labels[LabelInject] != "enabled" {
		return Result{Reason: NotEnabled}, nil
	}
	switch v, ok := pod.label(LabelInject); {
	case !ok, v == "true":
	case v == "false":
		return Result{Reason: OptedOut}, nil
	default:
		return deny(InvalidInject, fmt.Sprintf("the pod's label %s is %q, allowed: true, false", LabelInject, v),
			"correct the label in the pod template, or remove it to follow the namespace"), nil
	}
	if _, ok := pod.annotation(corev1.MirrorPodAnnotationKey); ok {
		return Result{Reason: MirrorPod}, nil
	}
	if pod.windows() {
		return Result{Reason: WindowsPod}, nil
	}

	mode, denial := effectiveMode(pod, ns, cfg)
	if denial != nil {
		return *denial, nil
	}
	p, denial := effectivePorts(pod, cfg, mode)
	if denial != nil {
		return *denial, nil
	}

	in := injection{pod: pod, mode: mode, ports: p}
	if mode == ModeHost {
		in.env = hostEnvironment(cfg, p.Outgoing)
	} else {
		if err := cfg.validateSidecar(); err != nil {
			return Result{}, err
		}
		in.env = sidecarEnvironment(cfg, p.Outgoing)
		in.sidecar = new(sidecarContainer(cfg, p))
		in.volume = new(sidecarVolume())
	}
	if in.hash, err = in.fingerprint(); err != nil {
		return Result{}, err
	}
	if earlier, ok := pod.status(); ok && (earlier.Mode != mode || earlier.Hash != in.hash) {
		return Result{Mode: earlier.Mode, Reason: AlreadyInjected, Hash: earlier.Hash, Warnings: []string{fmt.Sprintf(
			"the pod carries an earlier injection and stays as it is; to have it done anew, leave what was injected, with the annotation %s, out of its template", AnnotationStatus)}}, nil
	}
	if mode == ModeSidecar {
		if pod.Spec.HostNetwork {
			return Result{Reason: HostNetwork, Warnings: []string{fmt.Sprintf(
				"the pod uses the host's network and cannot have a sidecar; annotate it with %s: %s to mesh it", AnnotationMode, ModeHost)}}, nil
		}
		if denial := collisions(pod, p); denial != nil {
			return *denial, nil
		}
	}
	return in.apply()
}

func deny(r Reason, what, hint string) Result {
	return Result{Reason: r, Message: what + "; hint: " + hint}
}

func listModes() string {
	var names []string
	for _, m := range modes() {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// effectiveMode finds the pod's mode, or the denial that says why there is none.
func effectiveMode(pod podView, ns Namespace, cfg Config) (Mode, *Result) {
	value, ok := pod.annotation(AnnotationMode)
	where, remedy := "the pod's annotation "+AnnotationMode, "the namespace"
	if !ok {
		value, ok = ns.Labels[LabelMode]
		where, remedy = "the label "+LabelMode+" of namespace "+ns.Name, "the cluster's default"
	}
	if !ok {
		return cfg.DefaultMode, nil
	}
	if m := Mode(value); m.valid() {
		return m, nil
	}
	denial := deny(InvalidMode, fmt.Sprintf("%s is %q, allowed: %s", where, value, listModes()),
		"correct it, or remove it to follow "+remedy)
	return "", &denial
}

// effectivePorts finds the ports of the pod's proxy, or the denial that says what is wrong with them.
func effectivePorts(pod podView, cfg Config, mode Mode) (ports, *Result) {
	p := ports{cfg.OutgoingPort, cfg.IncomingPort, cfg.AdminPort}
	for _, a := range []struct {
		key  string
		port *int
	}{{AnnotationOutgoingPort, &p.Outgoing}, {AnnotationIncomingPort, &p.Incoming}, {AnnotationAdminPort, &p.Admin}} {
		value, ok := pod.annotation(a.key)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || !usablePort(n) {
			denial := deny(InvalidPort, fmt.Sprintf("the pod's annotation %s is %q, allowed: %d to %d", a.key, value, minPort, maxPort),
				"correct it, or remove it for the default, "+strconv.Itoa(*a.port))
			return ports{}, &denial
		}
		*a.port = n
	}
	if mode == ModeSidecar && (p.Outgoing == p.Incoming || p.Outgoing == p.Admin || p.Incoming == p.Admin) {
		denial := deny(InvalidPort, fmt.Sprintf("the ports of the sidecar are not different: outgoing %d, incoming %d, admin %d", p.Outgoing, p.Incoming, p.Admin),
			fmt.Sprintf("change the annotations %s, %s, %s", AnnotationOutgoingPort, AnnotationIncomingPort, AnnotationAdminPort))
		return ports{}, &denial
	}
	return p, nil
}

// collisions looks for names and ports of the pod that are ours in sidecar mode.
func collisions(pod podView, p ports) *Result {
	ours := pod.hasSidecar() && pod.injected()
	other := fmt.Sprintf("rename it, or annotate the pod with %s: %s, or keep it out with the label %s: \"false\"", AnnotationMode, ModeHost, LabelInject)
	var first *Result
	note := func(r Result) {
		if first == nil {
			first = &r
			return
		}
		first.Message += "; " + r.Message
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == ProxyContainer {
			if !ours {
				note(deny(NameTaken, fmt.Sprintf("the pod has a container named %q, which is the name of the sidecar", c.Name), other))
			}
			continue
		}
		for _, used := range c.usedPorts() {
			for _, o := range []struct {
				key, name string
				port      int
			}{
				{AnnotationOutgoingPort, "outgoing", p.Outgoing},
				{AnnotationIncomingPort, "incoming", p.Incoming},
				{AnnotationAdminPort, "admin", p.Admin},
			} {
				if used == o.port {
					note(deny(PortTaken, fmt.Sprintf("container %q uses port %d, which is the sidecar's %s port", c.Name, used, o.name),
						fmt.Sprintf("move the sidecar's with the annotation %s", o.key)))
				}
			}
		}
	}
	if !ours && slices.Contains(pod.Spec.Volumes, nameView{tokenVolume}) {
		note(deny(NameTaken, fmt.Sprintf("the pod has a volume named %q, which is the name of the sidecar's", tokenVolume), other))
	}
	return first
}

// status reads what an earlier pass wrote, if the pod bears it out.
func (p podView) status() (Status, bool) {
	text, ok := p.annotation(AnnotationStatus)
	if !ok {
		return Status{}, false
	}
	var s Status
	if json.Unmarshal([]byte(text), &s) != nil || !s.Mode.valid() || s.Hash == "" {
		return Status{}, false
	}
	if s.Mode == ModeSidecar && !p.hasSidecar() {
		return Status{}, false
	}
	return s, true
}

func (p podView) injected() bool { _, ok := p.status(); return ok }

// injection is a decision to inject, about to be written down.
type injection struct {
	pod     podView
	mode    Mode
	ports   ports
	env     environment
	sidecar *corev1.Container
	volume  *corev1.Volume
	hash    string
}

// fingerprint hashes all that the pod is given, before it is fitted into the pod.
func (in injection) fingerprint() (string, error) {
	text, err := json.Marshal(struct {
		Version string
		Mode    Mode
		Ports   ports
		Env     environment
		Sidecar *corev1.Container
		Volume  *corev1.Volume
	}{statusVersion, in.mode, in.ports, in.env, in.sidecar, in.volume})
	if err != nil {
		return "", fmt.Errorf("hash the injection: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// apply writes the patch.
func (in injection) apply() (Result, error) {
	res := Result{Mode: in.mode, Hash: in.hash, Reason: InjectedHost}
	if in.mode == ModeSidecar {
		res.Reason = InjectedSidecar
	}
	status := Status{Version: statusVersion, Mode: in.mode, Hash: in.hash}
	for _, v := range in.env.Fields {
		status.Env = append(status.Env, v.Name)
	}
	status.Env = append(status.Env, "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")

	var p patch
	for _, list := range []struct {
		field      string
		containers []containerView
	}{{"initContainers", in.pod.Spec.InitContainers}, {"containers", in.pod.Spec.Containers}} {
		for i, c := range list.containers {
			if c.Name == ProxyContainer && in.mode == ModeSidecar {
				continue
			}
			out := in.env.apply(&p, pointer("spec", list.field, strconv.Itoa(i)), c)
			if out.taken != "" {
				return deny(EnvTaken, fmt.Sprintf("container %q defines %s in its own way, but Tulle needs it to find the proxy", c.Name, out.taken),
					fmt.Sprintf("remove the variable, or keep the pod out with the label %s: \"false\"", LabelInject)), nil
			}
			res.Warnings = append(res.Warnings, out.warnings...)
			if out.left {
				status.Left = append(status.Left, c.Name)
			} else {
				status.Containers = append(status.Containers, c.Name)
			}
		}
	}
	if in.mode == ModeHost && len(status.Containers) == 0 {
		res.Reason, status.Env = AppDefinesProxy, nil
	}

	if in.mode == ModeSidecar {
		// After the edits above, whose indices it would shift.
		if !in.pod.hasSidecar() {
			insertFirst(&p, "/spec/initContainers", len(in.pod.Spec.InitContainers), in.sidecar)
		}
		if !slices.Contains(in.pod.Spec.Volumes, nameView{tokenVolume}) {
			appendLast(&p, "/spec/volumes", len(in.pod.Spec.Volumes), in.volume)
		}
		status.InitContainers = []string{ProxyContainer}
		status.Volumes = []string{tokenVolume}
	}

	text, err := json.Marshal(status)
	if err != nil {
		return Result{}, fmt.Errorf("write the status: %w", err)
	}
	in.label(&p, string(text))
	res.Warnings = append(res.Warnings, in.misplaced()...)
	if len(p) == 0 {
		return Result{Mode: in.mode, Hash: in.hash, Reason: AlreadyInjected}, nil
	}
	if res.Patch, err = p.encode(); err != nil {
		return Result{}, fmt.Errorf("write the patch: %w", err)
	}
	return res, nil
}

// label records the mode and what was added in the pod's metadata.
func (in injection) label(p *patch, status string) {
	if in.pod.Metadata == nil {
		p.add("/metadata", map[string]any{
			"labels":      map[string]string{LabelMode: string(in.mode)},
			"annotations": map[string]string{AnnotationStatus: status},
		})
		return
	}
	set := func(field string, have map[string]string, key, value string) {
		switch v, ok := have[key]; {
		case len(have) == 0:
			p.add(pointer("metadata", field), map[string]string{key: value})
		case !ok || v != value:
			p.add(pointer("metadata", field, key), value)
		}
	}
	set("labels", in.pod.Metadata.Labels, LabelMode, string(in.mode))
	set("annotations", in.pod.Metadata.Annotations, AnnotationStatus, status)
}

// misplaced warns about keys under tulle.dev/ that look meant for us but mean nothing where they are.
func (in injection) misplaced() []string {
	if in.pod.Metadata == nil {
		return nil
	}
	var warnings []string
	annotations := []string{AnnotationMode, AnnotationOutgoingPort, AnnotationIncomingPort, AnnotationAdminPort, AnnotationStatus}
	for key := range in.pod.Metadata.Annotations {
		switch {
		case !strings.HasPrefix(key, "tulle.dev/") || slices.Contains(annotations, key):
		case key == LabelInject:
			warnings = append(warnings, fmt.Sprintf("%s is an annotation of the pod, but only counts as a label", key))
		default:
			warnings = append(warnings, fmt.Sprintf("the pod's annotation %s is not known; known: %s", key, strings.Join(annotations[:4], ", ")))
		}
	}
	if v, ok := in.pod.label(LabelMode); ok && v != string(in.mode) {
		warnings = append(warnings, fmt.Sprintf("the pod's label %s is %q and is overwritten; the annotation %s chooses the mode", LabelMode, v, AnnotationMode))
	}
	slices.Sort(warnings)
	return warnings
}

// insertFirst puts element at the front of the list at path, which has n elements.
func insertFirst(p *patch, path string, n int, element any) {
	if n == 0 {
		p.add(path, []any{element})
		return
	}
	p.add(path+"/0", element)
}

// appendLast puts element at the end of the list at path, which has n elements.
func appendLast(p *patch, path string, n int, element any) {
	if n == 0 {
		p.add(path, []any{element})
		return
	}
	p.add(path+"/-", element)
}
