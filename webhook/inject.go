package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	res, _, err := decide(raw, ns, cfg, false)
	return res, err
}

// Step is what one rule had to say about a pod.
type Step struct {
	Rule    string // its name
	Said    string // what it found, one sentence
	Decided bool   // whether that was the end of it
}

// Explain decides as Inject does, by the same rules, and returns what each of them found: the last one
// decided. It costs more.
func Explain(raw []byte, ns Namespace, cfg Config) (Result, []Step, error) {
	return decide(raw, ns, cfg, true)
}

func decide(raw []byte, ns Namespace, cfg Config, explain bool) (Result, []Step, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validateCommon(); err != nil {
		return Result{}, nil, err
	}
	pod, err := parsePod(raw)
	if err != nil {
		return Result{}, nil, err
	}
	a := &admission{pod: pod, ns: ns, cfg: cfg, explain: explain}
	var steps []Step
	for _, r := range rules() {
		a.said = ""
		res, err := r.judge(a)
		if err != nil {
			return Result{}, steps, err
		}
		if explain {
			said := a.said
			if res != nil && res.Message != "" {
				said = res.Message
			}
			steps = append(steps, Step{r.name, said, res != nil})
		}
		if res != nil {
			return *res, steps, nil
		}
	}
	return Result{}, steps, errors.New("no rule decides about the pod") // out of reach: the last one always does
}

func listModes() string {
	var names []string
	for _, m := range modes() {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
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

// fingerprint hashes all that the pod is given, before it is fitted into the pod.
func (a *admission) fingerprint() (string, error) {
	text, err := json.Marshal(struct {
		Version string
		Mode    Mode
		Ports   ports
		Plan    plan
	}{statusVersion, a.mode, a.ports, a.plan})
	if err != nil {
		return "", fmt.Errorf("hash the injection: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// write writes the patch that carries out the plan.
func (a *admission) write() (*Result, error) {
	res := &Result{Mode: a.mode, Hash: a.hash, Reason: InjectedHost, Warnings: a.warnings}
	if a.mode == ModeSidecar {
		res.Reason = InjectedSidecar
	}
	status := Status{Version: statusVersion, Mode: a.mode, Hash: a.hash}
	for _, v := range a.plan.Env.Fields {
		status.Env = append(status.Env, v.Name)
	}
	status.Env = append(status.Env, "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")

	var p patch
	for _, list := range []struct {
		field      string
		containers []containerView
	}{{"initContainers", a.pod.Spec.InitContainers}, {"containers", a.pod.Spec.Containers}} {
		for i, c := range list.containers {
			if c.Name == ProxyContainer && a.mode == ModeSidecar {
				continue
			}
			out := a.plan.Env.apply(&p, pointer("spec", list.field, strconv.Itoa(i)), c)
			if out.taken != "" {
				return denial(EnvTaken, fmt.Sprintf("container %q defines %s in its own way, but Tulle needs it to find the proxy", c.Name, out.taken),
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
	if a.mode == ModeHost && len(status.Containers) == 0 {
		res.Reason, status.Env = AppDefinesProxy, nil
	}

	if a.mode == ModeSidecar {
		// After the edits above, whose indices it would shift.
		if !a.pod.hasSidecar() {
			insertFirst(&p, "/spec/initContainers", len(a.pod.Spec.InitContainers), a.plan.Init[0])
		}
		if !slices.Contains(a.pod.Spec.Volumes, nameView{tokenVolume}) {
			appendLast(&p, "/spec/volumes", len(a.pod.Spec.Volumes), a.plan.Volumes[0])
		}
		status.InitContainers = []string{ProxyContainer}
		status.Volumes = []string{tokenVolume}
	}

	text, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("write the status: %w", err)
	}
	a.label(&p, string(text))
	res.Warnings = append(res.Warnings, a.misplaced()...)
	if len(p) == 0 {
		a.say("nothing is missing")
		return &Result{Mode: a.mode, Hash: a.hash, Reason: AlreadyInjected}, nil
	}
	if res.Patch, err = p.encode(); err != nil {
		return nil, fmt.Errorf("write the patch: %w", err)
	}
	a.say("%d of the pod's containers get the proxy's environment", len(status.Containers))
	return res, nil
}

// label records the mode and what was added in the pod's metadata.
func (a *admission) label(p *patch, status string) {
	if a.pod.Metadata == nil {
		p.add("/metadata", map[string]any{
			"labels":      map[string]string{LabelMode: string(a.mode)},
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
	set("labels", a.pod.Metadata.Labels, LabelMode, string(a.mode))
	set("annotations", a.pod.Metadata.Annotations, AnnotationStatus, status)
}

// misplaced warns about keys under tulle.dev/ that look meant for us but mean nothing where they are.
func (a *admission) misplaced() []string {
	if a.pod.Metadata == nil {
		return nil
	}
	var warnings []string
	annotations := append(Annotations(), AnnotationStatus)
	for key := range a.pod.Metadata.Annotations {
		switch {
		case !strings.HasPrefix(key, keyPrefix) || slices.Contains(annotations, key):
		case key == LabelInject:
			warnings = append(warnings, fmt.Sprintf("%s is an annotation of the pod, but only counts as a label", key))
		default:
			warnings = append(warnings, fmt.Sprintf("the pod's annotation %s is not known; known: %s", key, strings.Join(Annotations(), ", ")))
		}
	}
	if v, ok := a.pod.label(LabelMode); ok && v != string(a.mode) {
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
