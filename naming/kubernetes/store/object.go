package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// Kind is the kind of the objects, and Resource what Kubernetes calls them in paths and in rules of RBAC.
const Kind = "DTab"

// Resource returns dtabs.l5d.io in the version that namerd uses.
func Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "l5d.io", Version: "v1alpha1", Resource: "dtabs"}
}

// annotationChange says of the generation that a write of ours made who wrote it and when, as a change in JSON.
const annotationChange = "tulle.dev/change"

type change struct {
	Generation int64       `json:"generation"`
	Time       metav1.Time `json:"time"`
	By         string      `json:"by,omitempty"`
}

// object is a DTab that was read.
type object struct {
	content
	malformed error // its rules are of another form altogether
	foreign   bool  // so is its status
}

// content is a DTab, as far as we read it. namerd has the rules at the top level.
type content struct {
	metav1.ObjectMeta `json:"metadata"`
	Dentries          []dentry `json:"dentries"`
	Status            status   `json:"status"`
}

// dentry is a rule as namerd writes it: the prefix and the tree, printed.
type dentry struct {
	Prefix string `json:"prefix"`
	Dst    string `json:"dst"`
}

type status struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Rules              int64              `json:"rules"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	History            []revision         `json:"history,omitempty"`
}

// revision is what the rules were at a generation, at which they parsed.
type revision struct {
	Generation int64       `json:"generation"`
	Time       metav1.Time `json:"time"`
	By         string      `json:"by,omitempty"`
	Dentries   []dentry    `json:"dentries,omitempty"`
}

func decode(u *unstructured.Unstructured) *object {
	convert := runtime.DefaultUnstructuredConverter.FromUnstructured
	o := &object{}
	malformed := convert(u.Object, &o.content)
	if malformed == nil {
		return o
	}
	// With a definition other than ours anything can be stored.
	rest := maps.Clone(u.Object)
	delete(rest, "dentries")
	o = &object{malformed: malformed}
	if convert(rest, &o.content) != nil {
		delete(rest, "status")
		o = &object{malformed: malformed, foreign: true}
		_ = convert(rest, &o.content) // what every object has
	}
	return o
}

// encode prints rules with all decimals of their weights: namerd's two are a loss when printing, not when reading.
func encode(d naming.Dtab) []dentry {
	dentries := make([]dentry, len(d))
	for i := range d {
		dentries[i].Prefix, dentries[i].Dst, _ = strings.Cut(d[i:i+1].Exact(), "=>") // which is never in a prefix
	}
	return dentries
}

// parse returns the rules, or everything that is wrong with them.
func parse(dentries []dentry) (naming.Dtab, error) {
	var dtab naming.Dtab
	var errs []error
	for i, d := range dentries {
		prefix, err := naming.ParsePrefix(d.Prefix)
		if err != nil {
			errs = append(errs, fmt.Errorf("dentries[%d].prefix: %w", i, err))
		}
		dst, err := naming.ParseTree(d.Dst)
		if err != nil {
			errs = append(errs, fmt.Errorf("dentries[%d].dst: %w", i, err))
		}
		dtab = append(dtab, naming.Dentry{Prefix: prefix, Dst: dst})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return dtab, nil
}

// Check says what is wrong with a DTab in JSON, each fault in a line with its place: nil if it would be served as it
// stands.
func Check(object []byte) error {
	var o struct {
		Dentries []dentry `json:"dentries"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return fmt.Errorf("read the DTab: %w", err)
	}
	_, err := parse(o.Dentries)
	return err
}

// version is what guarded writes go by: the generation, which Kubernetes counts up with each change of the rules and of
// nothing else, and the UID, since that of an object which is made anew begins at 1 again. A resourceVersion would
// change with the status too.
func (o *object) version(generation int64) string { return fmt.Sprintf("%d.%s", generation, o.UID) }

// parse returns the rules, or what is wrong.
func (o *object) parse() (naming.Dtab, error) {
	if o.malformed != nil {
		return nil, o.malformed
	}
	return parse(o.Dentries)
}

// revision says who made the present generation and when: what we noted ourselves, or else what Kubernetes knows of
// the program that last wrote the rules. All who ask get the same answer.
func (o *object) revision() revision {
	r := revision{Generation: o.Generation, Dentries: o.Dentries}
	var c change
	if err := json.Unmarshal([]byte(o.Annotations[annotationChange]), &c); err == nil && c.Generation == o.Generation {
		r.Time, r.By = c.Time, c.By
		return r
	}
	for _, f := range o.ManagedFields {
		if f.Time != nil && f.FieldsV1 != nil && r.Time.Before(f.Time) && strings.Contains(f.FieldsV1.GetRawString(), `"f:dentries"`) {
			r.Time, r.By = *f.Time, f.Manager
		}
	}
	if r.Time.IsZero() {
		r.Time = o.CreationTimestamp
	}
	return r
}

// maxHistory is how many bytes of rules a status keeps; an object may have 1.5 MB in all.
const maxHistory = 512 << 10

// merge returns the revisions of all lists, the newest first, as many as are kept. Where lists differ on a
// generation, the first one counts.
func merge(lists ...[]revision) []revision {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b revision) int { return cmp.Compare(b.Generation, a.Generation) })
	all = slices.CompactFunc(all, func(a, b revision) bool { return a.Generation == b.Generation })
	size := 0
	for i, r := range all {
		for _, d := range r.Dentries {
			size += len(d.Prefix) + len(d.Dst)
		}
		if i == namer.MaxHistory || size > maxHistory {
			return all[:i]
		}
	}
	return all
}

// state is what an object comes to. It is immutable.
type state struct {
	object  *object
	served  *namer.Versioned
	wrong   error      // why it is not the present generation that is served
	history []revision // those that parse, newest first
}

// newState looks at an object. known are revisions of it that its own status may not have yet.
//
// What is served is the newest revision that parses, under the version that it had: so an update that is
// guarded by what its writer has seen repairs an object that does not parse.
func newState(o *object, known []revision) *state {
	s := &state{object: o}
	recorded := slices.DeleteFunc(slices.Clone(o.Status.History), func(r revision) bool {
		_, err := parse(r.Dentries)
		return err != nil || r.Generation > o.Generation
	})
	dtab, wrong := o.parse()
	if wrong == nil {
		s.history = merge(recorded, known, []revision{o.revision()})
		s.served = &namer.Versioned{Dtab: dtab, Version: o.version(o.Generation)}
		return s
	}
	s.wrong, s.history = wrong, merge(recorded, known)
	s.served = &namer.Versioned{Version: o.version(o.Generation)} // nothing, if it never parsed
	if len(s.history) > 0 {
		last := s.history[0]
		dtab, _ := parse(last.Dentries)
		s.served = &namer.Versioned{Dtab: dtab, Version: o.version(last.Generation)}
	}
	return s
}

const (
	conditionParsed = "Parsed"
	reasonParsed    = "Parsed"
	reasonMalformed = "Malformed"

	maxMessage = 4 << 10
)

// status returns the status that the object should have.
func (s *state) status(now metav1.Time) status {
	parsed := metav1.Condition{
		Type: conditionParsed, Status: metav1.ConditionTrue, ObservedGeneration: s.object.Generation, LastTransitionTime: now,
		Reason: reasonParsed, Message: "the rules are served",
	}
	if s.wrong != nil {
		message := s.wrong.Error()
		if len(message) > maxMessage {
			message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
		}
		parsed.Status, parsed.Reason, parsed.Message = metav1.ConditionFalse, reasonMalformed, message+"; no rules are served"
		if len(s.history) > 0 {
			parsed.Message = fmt.Sprintf("%s; the rules of generation %d are served", message, s.history[0].Generation)
		}
	}
	for _, old := range s.object.Status.Conditions {
		if old.Type == parsed.Type && old.Status == parsed.Status {
			parsed.LastTransitionTime = old.LastTransitionTime
		}
	}
	return status{
		ObservedGeneration: s.object.Generation,
		Rules:              int64(len(s.served.Dtab)),
		Conditions:         []metav1.Condition{parsed},
		History:            s.history,
	}
}

// outdated returns a merge patch of the status, for the very object that this is a state of; nil if it is as it should
// be. A patch, since an update without all the rules would make Kubernetes forget who wrote them.
func (s *state) outdated(now metav1.Time) ([]byte, error) {
	if s.object.foreign {
		return nil, nil
	}
	present, err := json.Marshal(s.object.Status)
	if err != nil {
		return nil, fmt.Errorf("print the status: %w", err)
	}
	wanted := s.status(now)
	next, err := json.Marshal(wanted)
	if err != nil {
		return nil, fmt.Errorf("print the status: %w", err)
	}
	if bytes.Equal(present, next) {
		return nil, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.object.UID, "resourceVersion": s.object.ResourceVersion},
		"status":   wanted,
	})
	if err != nil {
		return nil, fmt.Errorf("print the status: %w", err)
	}
	return patch, nil
}
