package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Namespace is what the injector needs of the pod's namespace.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string // only those of NamespaceAnnotations count
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

// Inject decides about one pod, given as JSON. The pod's own namespace field is not looked at: ns is where
// it is going to live. Inject does no I/O, keeps nothing, and may be called concurrently.
//
// It goes by the table of rules, see Explain. An injection that the pod carries already, because it is asked about
// for a second time or because its template was copied from a running pod, is kept if it is the one that the pod
// would get, but for what it lacks; otherwise it is taken out and done anew.
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
	pod, err := parsePod(raw)
	if err != nil {
		return Result{}, nil, err
	}
	return judge(pod, ns, cfg, explain)
}

// judge puts a pod before the rules.
func judge(pod podView, ns Namespace, cfg Config, explain bool) (Result, []Step, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validateCommon(); err != nil {
		return Result{}, nil, err
	}
	a := &admission{came: pod, pod: pod, ns: ns, cfg: cfg, explain: explain}
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
		if res == nil {
			continue
		}
		if res.Reason != AlreadyInjected || res.Patch != nil {
			res.Warnings = append(a.warnings, res.Warnings...)
		}
		res.Message = cut(res.Message, maxMessage)
		if !explain {
			res.Warnings = bounded(res.Warnings)
		}
		return *res, steps, nil
	}
	return Result{}, steps, errors.New("no rule decides about the pod") // out of reach: the last one always does
}

// fingerprint hashes all that the pod is given, before it is fitted into the pod.
func (a *admission) fingerprint() (string, error) {
	p := a.plan
	p.Annotations = nil // those are fitted into the pod's own
	text, err := json.Marshal(struct {
		Version string
		Mode    Mode
		Ports   ports
		Plan    plan
	}{statusVersion, a.mode, a.ports, p})
	if err != nil {
		return "", fmt.Errorf("hash the injection: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// write writes the patch that carries out the plan.
func (a *admission) write() (*Result, error) {
	w := writer{admission: a, status: Status{Version: statusVersion, Mode: a.mode, Hash: a.hash}}
	keep := a.kept()
	if denied := w.environments(); denied != nil {
		return denied, nil
	}
	if keep {
		w.status.Added, w.status.Volumes = a.earlier.Added, a.earlier.Volumes
	} else {
		if a.earlier != nil {
			a.came.removeAdded(&w.patch, a.earlier)
		}
		w.containers()
	}
	w.pullSecrets(keep)
	if err := w.metadata(); err != nil {
		return nil, err
	}
	if len(w.patch) == 0 {
		a.say("the pod carries just this injection")
		return &Result{Mode: a.mode, Hash: a.hash, Reason: AlreadyInjected}, nil
	}

	res := &Result{Mode: a.mode, Hash: a.hash, Reason: InjectedHost, Warnings: append(w.warnings, a.misplaced()...)}
	switch {
	case a.mode == ModeSidecar:
		res.Reason = InjectedSidecar
	case len(w.status.Containers) == 0:
		res.Reason = AppDefinesProxy
	}
	if a.earlier != nil && !keep {
		res.Warnings = append(res.Warnings, fmt.Sprintf("the pod carried another injection, which was replaced; leave what was injected, with the annotation %s, out of its template", AnnotationStatus))
	}
	if w.explain && len(w.said) == 0 {
		w.said = []string{"the pod's own containers stay as they are"}
	}
	a.say("%s", strings.Join(w.said, "; "))
	var err error
	if res.Patch, err = w.patch.encode(); err != nil {
		return nil, fmt.Errorf("write the patch: %w", err)
	}
	return res, nil
}

// kept reports whether the containers and volumes of an earlier injection are those of the plan, and all there.
// What another webhook has changed in them since is kept as well.
func (a *admission) kept() bool {
	if a.earlier == nil || a.earlier.Mode != a.mode || a.earlier.Hash != a.hash {
		return false
	}
	for _, c := range slices.Concat(a.plan.Init, a.plan.InitLast, a.plan.Containers) {
		if !slices.Contains(a.earlier.Added, c.Name) || !a.came.hasContainer(c.Name) {
			return false
		}
	}
	for _, v := range a.plan.Volumes {
		if !slices.Contains(a.earlier.Volumes, v.Name) || !slices.Contains(a.came.Spec.Volumes, nameView{v.Name}) {
			return false
		}
	}
	return true
}

// writer writes a plan into a patch, and down in a status.
type writer struct {
	*admission
	patch    patch
	status   Status
	warnings []string
	said     []string // about each container, if anybody listens
	meshes   []string // containers of other meshes
}

func (w *writer) note(c containerView, what string) {
	if w.explain {
		w.said = append(w.said, fmt.Sprintf("container %q %s", c.Name, what))
	}
}

// environments gives the pod's own containers the environment of the plan. They are where they are in the pod as
// it came.
func (w *writer) environments() *Result {
	if w.plan.Env != nil {
		w.status.Proxy = w.plan.Env.Proxy
		for _, v := range w.plan.Env.Fields {
			w.status.Env = append(w.status.Env, v.Name)
		}
		w.status.Env = append(w.status.Env, "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")
	}
	for _, list := range w.came.lists() {
		for i, c := range list.containers {
			if w.earlier.added(c) {
				continue
			}
			if denied := w.environment(list.field, i, c); denied != nil {
				return denied
			}
		}
	}
	if len(w.status.Containers) == 0 {
		w.status.Proxy, w.status.Env = "", nil
	}
	if len(w.meshes) > 0 {
		w.warnings = append(w.warnings, fmt.Sprintf("the pod has containers of another mesh, %s, which are left alone: where both meshes take in a request, they call each other", strings.Join(w.meshes, ", ")))
	}
	return nil
}

func (w *writer) environment(field string, i int, c containerView) *Result {
	var p patch
	edit := envEdit{patch: &p, path: pointer("spec", field, strconv.Itoa(i)), entries: copied(c.Env)}
	stripped := c
	if w.earlier != nil {
		w.earlier.stripEnv(&edit, c.Name)
		stripped.Env = slices.Clone(edit.entries)
	}
	switch {
	case w.plan.Env == nil:
	case w.plan.NoInit && field == "initContainers":
		w.note(c, "runs before the sidecar does, and is left alone")
	case slices.Contains(w.skip, c.Name):
		w.note(c, "is skipped, as the annotation says")
	case isMeshProxy(c.Name):
		w.note(c, "is the proxy of another mesh and is left alone")
		w.meshes = append(w.meshes, c.Name)
		w.status.Left = append(w.status.Left, c.Name)
	default:
		out := w.plan.Env.apply(&edit, stripped, w.conflict)
		if out.denied != nil {
			return out.denied
		}
		w.warnings = append(w.warnings, out.warnings...)
		if out.left != "" {
			w.note(c, "is left alone: "+out.left)
			w.status.Left = append(w.status.Left, c.Name)
			break
		}
		w.note(c, "gets the proxy's environment")
		w.status.Containers = append(w.status.Containers, c.Name)
		w.remember(c.Name, out.undo)
	}
	if w.earlier == nil || !same(edit.entries, c.Env) {
		w.patch = append(w.patch, p...)
	}
	return nil
}

// meshProxies are immutable.
var meshProxies = [...]string{
	"istio-proxy", "istio-init", "istio-validation", "enable-core-dump",
	"linkerd-proxy", "linkerd-init", "linkerd-network-validator", "linkerd-debug",
	"consul-dataplane", "consul-connect-inject-init", "kuma-sidecar", "kuma-init", "osm-init",
}

// MeshProxies returns the names by which other meshes add containers of theirs, which are left alone.
func MeshProxies() []string { return slices.Clone(meshProxies[:]) }

func isMeshProxy(name string) bool { return slices.Contains(meshProxies[:], name) }

// remember notes how to undo what was done to a container, if the list of variables does not say it.
func (w *writer) remember(container string, u EnvUndo) {
	added := slices.Clone(w.status.Env)
	slices.Sort(added)
	if u.Moved == nil && u.Grown == nil && u.Was == nil && slices.Equal(slices.Sorted(slices.Values(u.Added)), added) {
		return
	}
	undo := w.undo()
	if undo.Env == nil {
		undo.Env = map[string]EnvUndo{}
	}
	undo.Env[container] = u
}

func (w *writer) undo() *Undo {
	if w.status.Undo == nil {
		w.status.Undo = &Undo{}
	}
	return w.status.Undo
}

// containers adds the plan's containers and volumes to the pod, after all edits whose indices they would shift.
func (w *writer) containers() {
	spec := w.pod.Spec // without those of an earlier injection, which the patch has removed by now
	first := func(field string, n int, containers []corev1.Container) {
		if len(containers) == 0 {
			return
		}
		for _, c := range containers {
			w.status.Added = append(w.status.Added, c.Name)
		}
		if n == 0 {
			w.patch.add("/spec/"+field, containers)
			return
		}
		for i, c := range containers {
			w.patch.add("/spec/"+field+"/"+strconv.Itoa(i), c)
		}
	}
	first("initContainers", len(spec.InitContainers), w.plan.Init)
	first("containers", len(spec.Containers), w.plan.Containers)
	for i, c := range w.plan.InitLast {
		w.status.Added = append(w.status.Added, c.Name)
		appendLast(&w.patch, "/spec/initContainers", len(spec.InitContainers)+len(w.plan.Init)+i, c)
	}
	for i, v := range w.plan.Volumes {
		w.status.Volumes = append(w.status.Volumes, v.Name)
		appendLast(&w.patch, "/spec/volumes", len(spec.Volumes)+i, v)
	}
}

// pullSecrets adds those of the plan that the pod lacks.
func (w *writer) pullSecrets(keep bool) {
	have := w.pod.Spec.ImagePullSecrets
	n := len(have)
	if keep {
		n = len(w.came.Spec.ImagePullSecrets)
	}
	for _, name := range w.plan.PullSecrets {
		if slices.Contains(have, nameView{name}) || slices.Contains(w.status.PullSecrets, name) {
			continue
		}
		w.status.PullSecrets = append(w.status.PullSecrets, name)
		if keep && slices.Contains(w.came.Spec.ImagePullSecrets, nameView{name}) {
			continue
		}
		appendLast(&w.patch, "/spec/imagePullSecrets", n, nameView{name})
		n++
	}
}

// metadata records the mode and what was added in the pod's labels and annotations.
func (w *writer) metadata() error {
	var was, is metaView // as it came, and without an earlier injection
	if w.came.Metadata != nil {
		was, is = *w.came.Metadata, *w.pod.Metadata
	}
	labels, annotations := maps.Clone(is.Labels), maps.Clone(is.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	if v, ok := labels[LabelMode]; ok {
		w.undo().Label = &v
	}
	labels[LabelMode] = string(w.mode)
	for key, v := range w.plan.Annotations {
		set := SetAnnotation{Set: v}
		if was, ok := annotations[key]; ok {
			if was == v {
				continue
			}
			set.Was = &was
		}
		undo := w.undo()
		if undo.Annotations == nil {
			undo.Annotations = map[string]SetAnnotation{}
		}
		undo.Annotations[key] = set
		annotations[key] = v
	}
	status, err := json.Marshal(w.status)
	if err != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	annotations[AnnotationStatus] = string(status)
	if w.came.Metadata == nil {
		w.patch.add("/metadata", map[string]any{"labels": labels, "annotations": annotations})
		return nil
	}
	setMap(&w.patch, "/metadata/labels", was.Labels, labels)
	setMap(&w.patch, "/metadata/annotations", was.Annotations, annotations)
	return nil
}

// appendLast puts element at the end of the list at path, which has n elements.
func appendLast(p *patch, path string, n int, element any) {
	if n == 0 {
		p.add(path, []any{element})
		return
	}
	p.add(path+"/-", element)
}
