package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Status is the value of the annotation tulle.dev/status: what was added to the pod, and what of it can no
// longer be seen, so that Uninject finds back.
type Status struct {
	Version string `json:"version"` // of this format
	Mode    Mode   `json:"mode"`
	Hash    string `json:"hash"`
	// Proxy is the URL in http_proxy.
	Proxy string `json:"proxy,omitempty"`
	// Env names the variables added; Containers those containers that have them.
	Env        []string `json:"env,omitempty"`
	Containers []string `json:"containers,omitempty"`
	// Left names the containers left alone, because they have a proxy of their own.
	Left []string `json:"left,omitempty"`
	// Added names the containers and init containers added, Volumes the volumes, PullSecrets the image pull secrets.
	Added       []string `json:"added,omitempty"`
	Volumes     []string `json:"volumes,omitempty"`
	PullSecrets []string `json:"pullSecrets,omitempty"`
	// Undo is what else there is to do to find back; nil in most pods.
	Undo *Undo `json:"undo,omitempty"`
}

// Undo records what the pod had before, where the injection did more than adding.
type Undo struct {
	// Label is the pod's former label tulle.dev/mode.
	Label *string `json:"label,omitempty"`
	// Annotations are those that were set.
	Annotations map[string]SetAnnotation `json:"annotations,omitempty"`
	// Env are the containers whose variables are not simply Status.Env.
	Env map[string]EnvUndo `json:"env,omitempty"`
}

// SetAnnotation is an annotation that was set; Was is nil if there was none.
type SetAnnotation struct {
	Set string  `json:"set"`
	Was *string `json:"was,omitempty"`
}

// EnvUndo records what was done to the environment of one container.
type EnvUndo struct {
	Added []string             `json:"added,omitempty"` // instead of Status.Env
	Moved map[string]int       `json:"moved,omitempty"` // to the front, from that index
	Grown map[string]int       `json:"grown,omitempty"` // had that many bytes
	Was   map[string]FormerEnv `json:"was,omitempty"`   // was replaced, and had that value
}

// FormerEnv is the value of a variable as its entry had it.
type FormerEnv struct {
	Value     string          `json:"value,omitempty"`
	ValueFrom json.RawMessage `json:"valueFrom,omitempty"`
	Chained   bool            `json:"chained,omitempty"` // the value is in the URL that took its place
}

const statusVersion = "v2"

// maxStatus is what the API server allows a pod's annotations to have together.
const maxStatus = 256 << 10

// status reads what an earlier pass wrote, if the pod bears it out.
func (p podView) status() (*Status, bool) {
	text, ok := p.annotation(AnnotationStatus)
	if !ok || len(text) > maxStatus {
		return nil, false
	}
	var s Status
	if json.Unmarshal([]byte(text), &s) != nil || s.Mode != ModeHost && s.Mode != ModeSidecar || s.Hash == "" {
		return nil, false
	}
	if s.Version != statusVersion {
		return &s, true
	}
	if s.Mode == ModeSidecar && !slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), s.added) {
		return nil, false
	}
	return &s, true
}

// injected reports whether the pod carries an injection.
func (p podView) injected() bool { _, ok := p.status(); return ok }

// added reports whether c is a container that the injection added: the status says so, and so it looks.
func (s *Status) added(c containerView) bool {
	if s == nil || !slices.Contains(s.Added, c.Name) {
		return false
	}
	switch c.Name {
	case ProxyContainer:
		return slices.ContainsFunc(c.Env, func(e envView) bool { return e.Name == envMode })
	case RedirectContainer:
		return true
	}
	return false
}

func (s *Status) addedVolume(v nameView) bool {
	return s != nil && slices.Contains(s.Volumes, v.Name) && strings.HasPrefix(v.Name, "tulle-")
}

func (s *Status) addedSecret(v nameView) bool {
	return s != nil && slices.Contains(s.PullSecrets, v.Name)
}

// without returns the pod as it was before s, as far as what is there now is what was added then. The pod
// itself is not changed.
func (p podView) without(s *Status) podView {
	if s == nil {
		return p
	}
	strip := func(containers []containerView) []containerView {
		var kept []containerView
		for _, c := range containers {
			if s.added(c) {
				continue
			}
			edit := envEdit{entries: slices.Clone(c.Env)}
			s.stripEnv(&edit, c.Name)
			c.Env = edit.entries
			kept = append(kept, c)
		}
		return kept
	}
	p.Spec.InitContainers, p.Spec.Containers = strip(p.Spec.InitContainers), strip(p.Spec.Containers)
	p.Spec.Volumes = slices.DeleteFunc(slices.Clone(p.Spec.Volumes), s.addedVolume)
	p.Spec.ImagePullSecrets = slices.DeleteFunc(slices.Clone(p.Spec.ImagePullSecrets), s.addedSecret)
	meta := *p.Metadata // which holds the status
	meta.Labels, meta.Annotations = s.stripMetadata(p.Metadata)
	p.Metadata = &meta
	return p
}

// stripMetadata returns the labels and annotations as they were.
func (s *Status) stripMetadata(m *metaView) (labels, annotations map[string]string) {
	labels, annotations = maps.Clone(m.Labels), maps.Clone(m.Annotations)
	delete(annotations, AnnotationStatus)
	undo := s.undo()
	if labels[LabelMode] == string(s.Mode) {
		delete(labels, LabelMode)
		if undo.Label != nil {
			labels[LabelMode] = *undo.Label
		}
	}
	for key, a := range undo.Annotations {
		if v, ok := annotations[key]; !ok || v != a.Set {
			continue // somebody else has written it since
		}
		if a.Was == nil {
			delete(annotations, key)
		} else {
			annotations[key] = *a.Was
		}
	}
	return labels, annotations
}

func (s *Status) undo() Undo {
	if s.Undo == nil {
		return Undo{}
	}
	return *s.Undo
}

// stripEnv takes out of the environment of a container what was added to it, and puts back what was moved,
// extended or replaced. What does not look as it was left stays.
func (s *Status) stripEnv(e *envEdit, container string) {
	if !slices.Contains(s.Containers, container) {
		return
	}
	u, ok := s.undo().Env[container]
	if !ok {
		u.Added = s.Env
	}
	ours, kept := make([]bool, len(e.entries)), []envView(nil)
	lower, upper := e.index("no_proxy"), e.index("NO_PROXY")
	for i, entry := range e.entries {
		if ours[i] = slices.Contains(u.Added, entry.Name) && s.wrote(e.entries, i, lower, upper); !ours[i] {
			kept = append(kept, entry)
		}
	}
	switch {
	case len(kept) == len(ours):
	case len(kept) == 0:
		e.remove(e.path + "/env")
	default:
		for i := len(ours) - 1; i >= 0; i-- {
			if ours[i] {
				e.remove(e.at(i))
			}
		}
	}
	e.entries = kept
	for _, name := range []string{"http_proxy", "HTTP_PROXY"} {
		was, ok := u.Was[name]
		i := e.index(name)
		if !ok || i < 0 || !s.isProxy(e.entries[i]) {
			continue
		}
		if was.Chained {
			behind, ok := unchained(e.entries[i].Value, s.Proxy)
			if !ok {
				continue
			}
			was = FormerEnv{Value: behind}
		}
		e.replace(i, was)
	}
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		length, ok := u.Grown[name]
		i := e.index(name)
		if !ok || i < 0 || !e.entries[i].literal() {
			continue
		}
		value := e.entries[i].Value
		if length >= 0 && length < len(value) && onlyBypass(value[length:]) {
			e.setValue(i, value[:length])
		}
	}
	// From the back: what came from further behind must not shift what came from further in front.
	moved := movable()
	slices.SortFunc(moved, func(a, b string) int { return u.Moved[b] - u.Moved[a] })
	for _, name := range moved {
		to, ok := u.Moved[name]
		from := slices.IndexFunc(e.entries, func(entry envView) bool { return entry.Name == name }) // of several, the first was moved
		if to = min(to, len(e.entries)-1); ok && from >= 0 && from < to {
			e.move(from, to)
		}
	}
}

// movable returns the variables that an injection may move to the front.
func movable() []string {
	return []string{envNodeName, envHostIP, envPodIP, "http_proxy", "HTTP_PROXY"}
}

// wrote reports whether entry i is one that the injection added; lower and upper are the last no_proxy and NO_PROXY.
func (s *Status) wrote(entries []envView, i, lower, upper int) bool {
	entry := entries[i]
	if v, ok := fieldOf(entry.Name); ok {
		return v.is(entry)
	}
	other := lower
	switch entry.Name {
	case "http_proxy", "HTTP_PROXY":
		return s.isProxy(entry)
	case "no_proxy":
		other = upper
	case "NO_PROXY":
	default:
		return false
	}
	mirrored := other >= 0 && entries[other].literal() && entries[other].Value == entry.Value
	return entry.literal() && (mirrored || onlyBypass(entry.Value))
}

func (s *Status) isProxy(entry envView) bool {
	if !entry.literal() || s.Proxy == "" {
		return false
	}
	_, chain := unchained(entry.Value, s.Proxy)
	return chain || entry.Value == s.Proxy
}

// onlyBypass reports whether a list holds nothing but what Tulle adds to such lists.
func onlyBypass(list string) bool {
	for _, host := range splitList(list) {
		if !slices.Contains(bypassHosts, host) {
			return false
		}
	}
	return true
}

// Uninject returns the RFC 6902 patch that takes out of a pod, given as JSON, what Inject has added to it:
// applied to an injected pod, it gives the pod that was there before, but for empty lists and maps, which may
// be gone. It goes by the annotation tulle.dev/status, and leaves whatever is no longer as Inject wrote it.
//
// The patch is nil if the pod carries no injection. The error is not nil if raw is no pod, or if the
// annotation cannot be read. It does no I/O and may be called concurrently.
func Uninject(raw []byte) ([]byte, error) {
	pod, err := parsePod(raw)
	if err != nil {
		return nil, err
	}
	s, ok := pod.status()
	text, annotated := pod.annotation(AnnotationStatus)
	switch {
	case !annotated:
		return nil, nil
	case !ok:
		return nil, fmt.Errorf("the annotation %s, %s, does not describe this pod; hint: take out by hand what Tulle has added, and the annotation", AnnotationStatus, quote(text))
	case s.Version != statusVersion:
		return nil, fmt.Errorf("the annotation %s is of version %s, expected %s; hint: use the version of tulle that injected the pod", AnnotationStatus, quote(s.Version), statusVersion)
	}
	var p patch
	for _, list := range pod.lists() {
		for i, c := range list.containers {
			if s.added(c) {
				continue
			}
			edit := envEdit{patch: &p, path: pointer("spec", list.field, strconv.Itoa(i)), entries: slices.Clone(c.Env)}
			s.stripEnv(&edit, c.Name)
		}
	}
	pod.removeAdded(&p, s)
	labels, annotations := s.stripMetadata(pod.Metadata)
	setMap(&p, "/metadata/labels", pod.Metadata.Labels, labels)
	setMap(&p, "/metadata/annotations", pod.Metadata.Annotations, annotations)
	return p.encode()
}

// removeAdded removes the containers, volumes and pull secrets that s names.
func (p podView) removeAdded(ops *patch, s *Status) {
	for _, list := range p.lists() {
		removeFrom(ops, "/spec/"+list.field, list.containers, s.added)
	}
	removeFrom(ops, "/spec/volumes", p.Spec.Volumes, s.addedVolume)
	removeFrom(ops, "/spec/imagePullSecrets", p.Spec.ImagePullSecrets, s.addedSecret)
}

// removeFrom removes elements of the list at path, and the list itself if nothing stays.
func removeFrom[T any](p *patch, path string, list []T, remove func(T) bool) {
	n := 0
	for _, e := range list {
		if remove(e) {
			n++
		}
	}
	if n > 0 && n == len(list) {
		p.remove(path)
		return
	}
	for i := len(list) - 1; i >= 0; i-- {
		if remove(list[i]) {
			p.remove(path + "/" + strconv.Itoa(i))
		}
	}
}

// setMap makes the map at path, now was, be want.
func setMap(p *patch, path string, was, want map[string]string) {
	switch {
	case maps.Equal(was, want):
		return
	case len(was) == 0:
		p.add(path, want)
		return
	case len(want) == 0:
		p.remove(path)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if _, ok := want[key]; !ok {
			p.remove(path + pointer(key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if v, ok := was[key]; !ok || v != want[key] {
			p.add(path+pointer(key), want[key])
		}
	}
}
