package workload

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// maxTemplateDepth bounds how many keys and list entries deep below its object a template is looked for. The deepest
// known, that of a JobSet, is four.
const maxTemplateDepth = 16

// search is the search through one object.
type search struct {
	file  *File
	doc   int
	about Object
	left  int // steps, because aliases can make a small text very large
	// passed are those that are noted, which aliases may lead to more than once
	passed map[*node]bool
}

// find adds the templates of an object, or of those in a List.
func (f *File) find(doc int, n *node) error { return f.findIn(doc, n, "", Object{}, 0) }

// findIn looks through an object whose kind and version are those of like if it says none itself, as in a PodList.
func (f *File) findIn(doc int, n *node, shared string, like Object, depth int) error {
	o := n.resolve()
	if o == nil || o.kind != object || depth > maxTemplateDepth {
		return nil
	}
	kind, _ := o.child("kind").text()
	if kind == "" {
		kind = like.Kind
	} else {
		like = Object{}
	}
	if items := o.child("items"); strings.HasSuffix(kind, "List") && items != nil && items.kind == array {
		like.Kind = strings.TrimSuffix(kind, "List")
		like.APIVersion, _ = o.child("apiVersion").text()
		for _, e := range items.entries {
			if err := f.findIn(doc, e.value, sharedBy(f, e.value, sharedBy(f, items, sharedBy(f, n, shared))), like, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if kind == "" {
		return nil
	}
	s := &search{file: f, doc: doc, left: budget}
	s.about = objectOf(f, doc, kind, o)
	if like.Kind != "" {
		s.about.APIVersion = like.APIVersion
	}
	f.Objects = append(f.Objects, s.about)
	if kind == "Pod" {
		if s.about.APIVersion == "v1" && s.isPod(n, nil) {
			return s.add(n, nil, sharedBy(f, n, shared))
		}
		return nil
	}
	return s.walk(n, nil, sharedBy(f, n, shared), 0)
}

func objectOf(f *File, doc int, kind string, o *node) Object {
	about := Object{Document: doc, Kind: kind}
	about.Line = f.line(o.start)
	about.APIVersion, _ = o.child("apiVersion").text()
	meta := o.child("metadata")
	about.Namespace, _ = meta.child("namespace").text()
	if about.Name, _ = meta.child("name").text(); about.Name == "" {
		about.Name, _ = meta.child("generateName").text()
	}
	texts := func(key string) map[string]string {
		n := meta.child(key)
		if n == nil || n.kind != object {
			return nil
		}
		all := map[string]string{}
		for _, e := range n.entries {
			if v, ok := e.value.text(); ok && e.named {
				all[e.key] = v
			}
		}
		return all
	}
	about.Labels, about.Annotations = texts("labels"), texts("annotations")
	return about
}

// walk looks for templates below n, which is at path.
func (s *search) walk(n *node, path []string, shared string, depth int) error {
	o := n.resolve()
	if o == nil || depth > maxTemplateDepth {
		return nil
	}
	if s.left -= 1 + len(o.entries); s.left < 0 {
		return s.file.place(s.doc, n, "the aliases make too much of this object")
	}
	for i, e := range o.entries {
		if o.merges && e.named && e.key == mergeKey {
			for _, from := range o.merged() {
				if err := s.walk(from, path, "it is merged in from elsewhere", depth+1); err != nil {
					return err
				}
			}
			continue
		}
		if e.value.resolve() == nil || e.value.resolve().kind == scalar {
			continue
		}
		shared := sharedBy(s.file, e.value, shared)
		if o.kind == array {
			at := append(path[:len(path)-1:len(path)-1], path[len(path)-1]+"["+strconv.Itoa(i)+"]")
			if err := s.walk(e.value, at, shared, depth+1); err != nil {
				return err
			}
			continue
		}
		if len(path) == 0 && (e.key == "metadata" || e.key == "status") || !e.named {
			continue
		}
		at := append(path[:len(path):len(path)], e.key)
		next := s.walk
		if strings.HasSuffix(strings.ToLower(e.key), "template") && s.isPod(e.value, at) {
			next = func(n *node, path []string, shared string, _ int) error { return s.add(n, path, shared) }
		}
		if err := next(e.value, at, shared, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// isPod reports whether n, which is at path, looks like a pod. If but for the name of a container it does, that is noted.
func (s *search) isPod(n *node, path []string) bool {
	list := n.child("spec").child("containers")
	if list == nil || list.kind != array || len(list.entries) == 0 {
		return false
	}
	for i, e := range list.entries {
		c := e.value.resolve()
		if c == nil || c.kind != object {
			return false
		}
		name, ok := c.child("name").text()
		if ok && containerName.MatchString(name) {
			continue
		}
		if s.passed[list] {
			return false
		}
		if s.passed == nil {
			s.passed = map[*node]bool{}
		}
		s.passed[list] = true
		p := Passed{Object: s.about, Path: strings.Join(path, "."), At: s.file.line(c.start), Why: fmt.Sprintf("spec.containers[%d] has no name", i)}
		if c.child("name") != nil {
			p.Why = fmt.Sprintf("the name of spec.containers[%d] is none that Kubernetes allows", i)
			if ok {
				p.Why = fmt.Sprintf("the name %q of spec.containers[%d] is none that Kubernetes allows", name, i)
			}
		}
		s.file.Passed = append(s.file.Passed, p)
		return false
	}
	return true
}

// containerName is an RFC 1123 label.
var containerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// sharedBy says why n cannot be changed alone, if it cannot; before is what is known of where it stands.
func sharedBy(f *File, n *node, before string) string {
	if before != "" || n == nil {
		return before
	}
	if n.kind == alias {
		line, _ := position(f.text, n.start)
		return "on line " + strconv.Itoa(line) + " it is an alias of something else"
	}
	if len(n.users) > 0 {
		line, _ := position(f.text, n.users[0].start)
		return "it has an anchor whose alias stands on line " + strconv.Itoa(line)
	}
	return ""
}

// add notes the template n.
func (s *search) add(n *node, path []string, shared string) error {
	t := Template{Object: s.about}
	t.Path = strings.Join(path, ".")
	o := n.resolve()
	text, err := o.encode()
	if bad := (*badNode)(nil); errors.As(err, &bad) {
		line := s.file.text[lineBegin(s.file.text, bad.at.start):lineEnd(s.file.text, bad.at.start)]
		if !s.file.JSON && bytes.Contains(line, []byte("{{")) { // which is YAML, by chance
			bad.err = fmt.Errorf("%w; %s", bad.err, unrendered)
		}
		return s.file.place(s.doc, bad.at, "%w", bad.err)
	} else if err != nil {
		return s.file.place(s.doc, o, "%w", err)
	}
	t.JSON, t.root, t.shared = text, o, shared
	s.file.Templates = append(s.file.Templates, t)
	return nil
}
