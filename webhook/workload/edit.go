package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Edit returns the text of the file with patches applied, each an RFC 6902 patch of the template of the same number, nil for
// none. The caller must not change the result, which is the file's own text if there is no patch. The error is an
// *[Error]; there is no text then.
//
// A template that is an alias, or that an alias elsewhere repeats, cannot be changed, because that would change the
// other as well; nor can a part of one that is.
func (f *File) Edit(patches [][]byte) ([]byte, error) {
	var splices []splice
	var touched []int
	for i, patch := range patches {
		if len(patch) == 0 {
			continue
		}
		t := f.Templates[i]
		s, err := f.edit(t, patch)
		if err != nil {
			return nil, err
		}
		if len(s) > 0 {
			splices = append(splices, s...)
			touched = append(touched, i)
		}
	}
	if len(splices) == 0 {
		return f.text, nil
	}
	text := apply(f.text, append(splices, f.endText(splices)...))
	if err := f.verify(text, patches); err != nil {
		return nil, f.place(f.Templates[touched[0]].Document, f.Templates[touched[0]].root,
			"it cannot be changed in place: %w; write the document in the usual way, as by kubectl -o yaml", err)
	}
	return text, nil
}

// endText keeps the text that the file ends in as it is when something is put behind it.
func (f *File) endText(splices []splice) []splice {
	behind := false
	for _, s := range splices {
		if s.start <= f.cut && f.cut < s.end {
			return nil
		}
		behind = behind || s.start == len(f.text) && s.text != ""
	}
	if f.cut == 0 || !behind {
		return nil
	}
	if f.text[f.cut-1] == '+' {
		return []splice{{f.cut - 1, f.cut, "-"}}
	}
	return []splice{{f.cut, f.cut, "-"}}
}

// Ended returns the text of the file with its last line ended, so that another text can follow. It says the same: a text
// in block style that the file ends in has no end of a line more.
func (f *File) Ended() []byte {
	if len(f.text) == 0 || f.text[len(f.text)-1] == '\n' {
		return f.text
	}
	end := []splice{{len(f.text), len(f.text), "\n"}}
	return apply(f.text, append(end, f.endText(end)...))
}

// edit says which pieces of the text a patch replaces.
func (f *File) edit(t Template, patch []byte) ([]splice, error) {
	var ops []operation
	if err := json.Unmarshal(patch, &ops); err != nil {
		return nil, f.place(t.Document, t.root, "read the patch: %w", err)
	}
	if len(ops) == 0 {
		return nil, nil
	}
	if t.shared != "" {
		return nil, f.place(t.Document, t.root, "%s cannot be changed, because %s; write both out", t.describe(), t.shared)
	}
	root := t.root.clone()
	for _, op := range ops {
		if err := op.apply(root); err != nil {
			at := root
			if where := (*badNode)(nil); errors.As(err, &where) && where.at != nil {
				at = where.at
			}
			if at.fresh {
				at = root
			}
			return nil, f.place(t.Document, at, "%s cannot be changed at %s: %w", t.describe(), op.Path, err)
		}
	}
	w := writer{text: f.text, json: f.JSON}
	w.learn(t.root)
	w.collection(root)
	return w.splices, nil
}

func (t *Template) describe() string {
	if t.Path == "" {
		return "the pod"
	}
	return "the pod template " + t.Path
}

// verify reads an edited text again, and compares it with what patches make of what was read before.
func (f *File) verify(text []byte, patches [][]byte) error {
	after, err := Parse(f.Name, text)
	if err != nil {
		return err
	}
	if len(after.docs) != len(f.docs) || len(after.Templates) != len(f.Templates) {
		return errors.New("its parts would be other ones")
	}
	for i, t := range f.Templates {
		want := t.JSON
		if i < len(patches) && len(patches[i]) > 0 {
			decoded, err := jsonpatch.DecodePatch(patches[i])
			if err != nil {
				return fmt.Errorf("read the patch: %w", err)
			}
			if want, err = decoded.Apply(t.JSON); err != nil {
				return fmt.Errorf("apply the patch: %w", err)
			}
		}
		if !equalJSON(want, after.Templates[i].JSON) {
			return errors.New("it would be read as something else")
		}
	}
	// What is not a template must be as it was. Templates are left out of the comparison.
	hiddenBefore, hiddenAfter := f.roots(), after.roots()
	for i := range f.docs {
		if !bytes.Equal(f.docs[i].without(hiddenBefore[i]), after.docs[i].without(hiddenAfter[i])) {
			return errors.New("what stands around it would be read as something else")
		}
	}
	return nil
}

// roots are the templates of each document.
func (f *File) roots() []map[*node]bool {
	all := make([]map[*node]bool, len(f.docs))
	for i := range all {
		all[i] = map[*node]bool{}
	}
	for _, t := range f.Templates {
		all[t.Document-1][t.root] = true
	}
	return all
}

// without is what a document says without some of its parts.
func (d document) without(hidden map[*node]bool) []byte {
	if d.root == nil {
		return nil
	}
	w := &encoder{left: budget, hidden: hidden}
	if w.node(d.root) != nil {
		// It holds what JSON does not have, which is nobody's business here but must not change either.
		w.WriteString("…")
	}
	return w.Bytes()
}

func equalJSON(a, b []byte) bool {
	var x, y any
	for _, v := range []struct {
		text []byte
		into *any
	}{{a, &x}, {b, &y}} {
		d := json.NewDecoder(bytes.NewReader(v.text))
		d.UseNumber()
		if d.Decode(v.into) != nil {
			return false
		}
	}
	return reflect.DeepEqual(x, y)
}

// operation is one step of an RFC 6902 patch.
type operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from"`
	Value json.RawMessage `json:"value"`
}

func (op operation) apply(root *node) error {
	if op.Path == "" {
		return errors.New("a patch must not replace it as a whole")
	}
	switch op.Op {
	case "add", "replace":
		v := op.Value
		if v == nil {
			v = json.RawMessage("null")
		}
		value, err := parseValue(v)
		if err != nil {
			return fmt.Errorf("read the value of the patch: %w", err)
		}
		return put(root, op.Path, value, op.Op == "replace")
	case "remove":
		_, err := take(root, op.Path, true)
		return err
	case "move", "copy":
		text, err := take(root, op.From, op.Op == "move")
		if err != nil {
			return err
		}
		value, err := parseValue(text)
		if err != nil {
			return err
		}
		return put(root, op.Path, value, false)
	case "test":
		text, err := take(root, op.Path, false)
		if err == nil && !equalJSON(text, op.Value) {
			err = errors.New("the patch expects another value there")
		}
		return err
	}
	return fmt.Errorf("%q is no operation of RFC 6902", op.Op)
}

// reach returns the collection that the last part of a path is in, and that part. Change says that it is going to be
// changed, which it must not be if an alias has it too.
func reach(root *node, path string, change bool) (*node, string, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, "", fmt.Errorf("%q is no JSON pointer", path)
	}
	parts := strings.Split(path[1:], "/")
	at := root
	for i, p := range parts {
		p = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
		if at.kind == alias && !change {
			at = at.resolve()
		}
		switch {
		case at == nil || at.kind == alias:
			return nil, "", &badNode{at, errors.New("this is an alias, and what it names must stay as it is; write it out")}
		case change && len(at.users) > 0:
			return nil, "", &badNode{at, errors.New("it has an anchor, and its aliases would change with it; write them out")}
		case at.kind == scalar:
			return nil, "", &badNode{at, errors.New("it is no object and no list")}
		case i == len(parts)-1:
			if change && at.odd != "" {
				return nil, "", &badNode{at, errors.New(at.odd)}
			}
			return at, p, nil
		}
		e, _, err := at.locate(p)
		if err != nil {
			return nil, "", err
		}
		at = e.value
	}
	return nil, "", nil
}

// locate returns the entry of a collection that one part of a path names, and its index.
func (n *node) locate(part string) (*entry, int, error) {
	if n.kind == array {
		i, err := index(part, len(n.entries)-1)
		if err != nil {
			return nil, 0, &badNode{n, err}
		}
		return n.entries[i], i, nil
	}
	for i, e := range n.entries {
		if e.named && e.key == part {
			return e, i, nil
		}
	}
	if n.merges && n.child(part) != nil {
		return nil, 0, &badNode{n, fmt.Errorf("%s is merged in from elsewhere; write it out", part)}
	}
	return nil, 0, &badNode{n, fmt.Errorf("there is no %s", part)}
}

// index reads the index of a list, at most last.
func index(part string, last int) (int, error) {
	i, err := strconv.Atoi(part)
	if err != nil || i < 0 || strconv.Itoa(i) != part {
		return 0, fmt.Errorf("%q is no index", part)
	}
	if i > last {
		return 0, fmt.Errorf("the list ends before index %d", i)
	}
	return i, nil
}

// put adds or replaces a value.
func put(root *node, path string, value *node, mustExist bool) error {
	at, part, err := reach(root, path, true)
	if err != nil {
		return err
	}
	if at.kind == array && !mustExist {
		i := len(at.entries)
		if part != "-" {
			if i, err = index(part, i); err != nil {
				return &badNode{at, err}
			}
		}
		at.entries = slices.Insert(at.entries, i, &entry{value: value, fresh: true})
		at.edited = true
		return nil
	}
	e, _, err := at.locate(part)
	switch {
	case err == nil && len(at.entries) > 0:
		if err := pinned(e.value); err != nil {
			return err
		}
		if e.old == nil && !e.fresh {
			e.old = e.value
		}
		e.value = value
	case mustExist:
		return err
	default:
		fresh := &entry{key: part, named: true, value: value, fresh: true}
		at.edited = true
		if part == "metadata" {
			at.entries = slices.Insert(at.entries, 0, fresh)
		} else {
			at.entries = append(at.entries, fresh)
		}
	}
	return nil
}

// take returns a value as JSON, and removes it if asked to.
func take(root *node, path string, remove bool) ([]byte, error) {
	at, part, err := reach(root, path, remove)
	if err != nil {
		return nil, err
	}
	e, i, err := at.locate(part)
	if err != nil {
		return nil, err
	}
	text, err := e.value.encode()
	if err != nil || !remove {
		return text, err
	}
	if at.merges && at.kind == object {
		for _, from := range at.merged() {
			if from.child(part) != nil {
				return nil, &badNode{at, fmt.Errorf("%s is merged in from elsewhere as well; write it out", part)}
			}
		}
	}
	if err := pinned(e.value); err != nil {
		return nil, err
	}
	at.entries = slices.Delete(at.entries, i, i+1)
	at.edited = true
	return text, nil
}

// pinned reports an anchor in n that something else refers to, so that n cannot be taken away.
func pinned(n *node) error {
	if len(n.users) > 0 {
		return &badNode{n, errors.New("it has an anchor that an alias needs; write the alias out")}
	}
	for _, e := range n.entries {
		if err := pinned(e.value); err != nil {
			return err
		}
	}
	return nil
}
