package workload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"pgregory.net/rapid"
	kyaml "sigs.k8s.io/yaml"
)

// layout writes values as YAML as people do: in all styles, with comments everywhere.
type layout struct {
	t        *rapid.T
	b        strings.Builder
	comments int
	step     int
	dash     int
}

func (l *layout) yes(name string) bool { return rapid.IntRange(0, 3).Draw(l.t, name) == 0 }

func (l *layout) comment() string {
	l.comments++
	return "# c" + strconv.Itoa(l.comments) + "."
}

func (l *layout) endLine() {
	if l.yes("comment behind") {
		l.b.WriteString(" " + l.comment())
	}
	l.b.WriteString("\n")
	if l.yes("comment below") {
		l.b.WriteString(strings.Repeat(" ", rapid.IntRange(0, 12).Draw(l.t, "column")) + l.comment() + "\n")
	}
	if l.yes("blank") {
		l.b.WriteString("\n")
	}
}

func (l *layout) text(s string) string {
	quoted := yamlSafe(s)
	switch rapid.IntRange(0, 2).Draw(l.t, "quotes") {
	case 0:
		return quoted
	case 1:
		if printable(s, "") {
			return "'" + strings.ReplaceAll(s, "'", "''") + "'"
		}
	}
	if bare.MatchString(s) && yamlText(s) == s {
		return s
	}
	return quoted
}

// yamlSafe is JSON that is YAML as well, which does not take all characters as they are.
func yamlSafe(v any) string {
	text, _ := json.Marshal(v)
	return strings.NewReplacer("\x7f", `\u007f`, "\u0085", `\u0085`).Replace(string(text))
}

func (l *layout) flow(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+": "+l.flow(v[k]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		var parts []string
		for _, item := range v {
			parts = append(parts, l.flow(item))
		}
		return "[ " + strings.Join(parts, ",") + " ]"
	}
	return yamlSafe(v)
}

// value writes what stands behind a colon or a dash.
func (l *layout) value(v any, indent int, inArray bool) {
	switch v := v.(type) {
	case string:
		if lines, ok := literal(v); ok && l.yes("literal") {
			l.b.WriteString(" " + lines[0] + "\n")
			for _, line := range lines[1:] {
				l.b.WriteString(strings.Repeat(" ", indent+2) + line + "\n")
			}
			return
		}
		l.b.WriteString(" " + l.text(v))
		l.endLine()
	case map[string]any:
		if len(v) == 0 || l.yes("flow") {
			l.b.WriteString(" " + l.flow(v))
			l.endLine()
			return
		}
		if inArray && !l.yes("own line") {
			l.b.WriteString(" ")
			l.object(v, indent+2, true)
			return
		}
		l.endLine()
		l.object(v, indent+l.step, false)
	case []any:
		if len(v) == 0 || l.yes("flow") {
			l.b.WriteString(" " + l.flow(v))
			l.endLine()
			return
		}
		if inArray {
			l.b.WriteString(" ")
			l.array(v, indent+2, true)
			return
		}
		l.endLine()
		l.array(v, indent+l.dash, false)
	case nil:
		l.b.WriteString(rapid.SampledFrom([]string{"", " null", " ~"}).Draw(l.t, "null"))
		l.endLine()
	default:
		text, _ := json.Marshal(v)
		l.b.WriteString(" " + string(text))
		l.endLine()
	}
}

func (l *layout) object(v map[string]any, indent int, begun bool) {
	keys := rapid.Permutation(slices.Sorted(maps.Keys(v))).Draw(l.t, "order")
	for i, k := range keys {
		if i > 0 || !begun {
			l.b.WriteString(strings.Repeat(" ", indent))
		}
		l.b.WriteString(k + ":")
		l.value(v[k], indent, false)
	}
}

func (l *layout) array(v []any, indent int, begun bool) {
	for i, item := range v {
		if i > 0 || !begun {
			l.b.WriteString(strings.Repeat(" ", indent))
		}
		l.b.WriteString("-")
		l.value(item, indent, true)
	}
}

func anything(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		most := 5
		if depth == 0 {
			most = 3
		}
		switch rapid.IntRange(0, most).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.SampledFrom([]any{true, false, float64(7), 1.5}).Draw(t, "value")
		case 2, 3:
			return rapid.SampledFrom([]string{"", "a", "yes", "5", "a b", "a: b", "# no", "x\ny\n", "x\n\n y", "é\u2028", " lead", "trail ", "-", "- a", "{", "it's", `"q"`, `\`, "~", "0o7", "1:30",
				"2001-01-01", "http://$(A):1", "a,b", "*a", "&a", "!t", "%", "@", "`", "|", ">", "---", "...", "=", "<<", ".inf", "a\tb", "tail\n\n", "\n", "a\n  b\n", "\x7f", "\u0085", "😀", "# x\ny\n"}).Draw(t, "text")
		case 4:
			m := map[string]any{}
			for i := range rapid.IntRange(0, 3).Draw(t, "keys") {
				m[string(rune('a'+i))] = anything(depth-1).Draw(t, "value")
			}
			return m
		}
		var list []any
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			list = append(list, anything(depth-1).Draw(t, "item"))
		}
		if list == nil {
			list = []any{}
		}
		return list
	})
}

// places lists the pointers of v, those of collections apart.
func places(v any, at string, all, collections *[]string) {
	switch v := v.(type) {
	case map[string]any:
		*collections = append(*collections, at)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			*all = append(*all, at+"/"+k)
			places(v[k], at+"/"+k, all, collections)
		}
	case []any:
		*collections = append(*collections, at)
		for i := range v {
			p := at + "/" + strconv.Itoa(i)
			*all = append(*all, p)
			places(v[i], p, all, collections)
		}
	}
}

func lookup(v any, pointer string) any {
	if pointer == "" {
		return v
	}
	for p := range strings.SplitSeq(pointer[1:], "/") {
		switch w := v.(type) {
		case map[string]any:
			v = w[p]
		case []any:
			i, _ := strconv.Atoi(p)
			v = w[i]
		}
	}
	return v
}

var keptPlace = regexp.MustCompile(`^/spec/containers/\d+(/name)?$`)

// step draws an operation that fits v.
func step(t *rapid.T, v any) map[string]any {
	var all, collections []string
	places(v, "", &all, &collections)
	var keep []string
	for _, p := range all { // what makes it a template stays
		if p != "/spec" && p != "/spec/containers" && !keptPlace.MatchString(p) {
			keep = append(keep, p)
		}
	}
	value := anything(2).Draw(t, "new")
	op := rapid.SampledFrom([]string{"add", "add", "remove", "replace"}).Draw(t, "op")
	if op != "add" && len(keep) > 0 {
		return map[string]any{"op": op, "path": rapid.SampledFrom(keep).Draw(t, "path"), "value": value}
	}
	at := rapid.SampledFrom(collections).Draw(t, "at")
	if list, ok := lookup(v, at).([]any); ok {
		if at == "/spec/containers" {
			value = map[string]any{"name": "new"}
		}
		return map[string]any{"op": "add", "path": at + "/" + strconv.Itoa(rapid.IntRange(0, len(list)).Draw(t, "index")), "value": value}
	}
	return map[string]any{"op": "add", "path": at + "/" + rapid.SampledFrom([]string{"n", "m", "metadata", "zz"}).Draw(t, "key"), "value": value}
}

func TestEditIsThePatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		template := map[string]any{"spec": map[string]any{
			"containers": []any{map[string]any{"name": "a", "env": anything(2).Draw(t, "env")}, map[string]any{"name": "b"}},
			"other":      anything(3).Draw(t, "other"),
		}}
		if rapid.Bool().Draw(t, "metadata") {
			template["metadata"] = anything(2).Draw(t, "metadata")
		}
		object := map[string]any{"kind": "X", "spec": map[string]any{"template": template, "z": anything(1).Draw(t, "z")}}
		l := &layout{t: t, step: rapid.IntRange(1, 4).Draw(t, "step"), dash: rapid.IntRange(0, 3).Draw(t, "dash")}
		l.object(object, 0, false)
		text := l.b.String()
		switch rapid.IntRange(0, 5).Draw(t, "form") {
		case 0:
			text = strings.ReplaceAll(text, "\n", "\r\n")
		case 1:
			text = "\uFEFF" + text
		case 2:
			compact, _ := json.Marshal(object)
			text = string(compact)
		case 3:
			pretty, _ := json.MarshalIndent(object, "", "\t")
			text = string(pretty)
		case 4:
			text = strings.TrimRight(text, "\n")
		}
		f, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(f.Templates) != 1 {
			t.Fatalf("%d templates\n%s", len(f.Templates), text)
		}
		var ops []map[string]any
		removed := false
		now := f.Templates[0].JSON
		for range rapid.IntRange(1, 5).Draw(t, "ops") {
			var v any
			if err := json.Unmarshal(now, &v); err != nil {
				t.Fatal(err)
			}
			op := step(t, v)
			removed = removed || op["op"] != "add" || lookupOK(v, op["path"].(string))
			one, _ := json.Marshal([]any{op})
			p, err := jsonpatch.DecodePatch(one)
			if err != nil {
				t.Fatal(err)
			}
			if now, err = p.Apply(now); err != nil {
				t.Fatal(err)
			}
			ops = append(ops, op)
		}
		patch, _ := json.Marshal(ops)
		got, err := f.Edit([][]byte{patch})
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, patch, text)
		}
		var want map[string]any
		toJSON := kyaml.YAMLToJSON
		if f.JSON {
			toJSON = func(text []byte) ([]byte, error) { return text, nil }
		}
		before, err := toJSON([]byte(text))
		if err != nil || json.Unmarshal(before, &want) != nil {
			t.Fatal(err)
		}
		var patched any
		if err := json.Unmarshal(now, &patched); err != nil {
			t.Fatal(err)
		}
		want["spec"].(map[string]any)["template"] = patched
		after, err := toJSON(got)
		if err != nil {
			t.Fatalf("%v\n%s", err, got)
		}
		wantText, _ := json.Marshal(want)
		if !equalJSON(wantText, after) {
			t.Fatalf("got  %s\nwant %s\nfrom\n%s\nby %s\nto\n%s", after, wantText, text, patch, got)
		}
		if !removed {
			for i := range l.comments {
				if c := fmt.Sprintf("# c%d.", i+1); strings.Contains(text, c) && !bytes.Contains(got, []byte(c)) {
					t.Fatalf("%s is lost\n%s\nby %s\nto\n%s", c, text, patch, got)
				}
			}
		}
	})
}

func lookupOK(v any, pointer string) bool {
	at, last := pointer[:strings.LastIndexByte(pointer, '/')], pointer[strings.LastIndexByte(pointer, '/')+1:]
	m, ok := lookup(v, at).(map[string]any)
	if !ok {
		return false
	}
	_, ok = m[last]
	return ok
}

// What is added and taken away again leaves no trace.
func TestUndo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := map[string]any{"kind": "X", "spec": map[string]any{"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "a", "env": []any{map[string]any{"name": "A"}}}}},
		}}}
		l := &layout{t: t, step: rapid.IntRange(1, 4).Draw(t, "step"), dash: rapid.IntRange(0, 3).Draw(t, "dash")}
		l.object(object, 0, false)
		text := l.b.String()
		value, _ := json.Marshal(anything(2).Draw(t, "value"))
		for path, undo := range map[string]string{"/metadata/labels/x": "", "/metadata/annotations": "", "/spec/volumes": "", "/spec/containers/0/image": "",
			"/spec/containers/0/env/0": "", "/spec/containers/0/env/-": "/spec/containers/0/env/1", "/spec/containers/0": ""} {
			if undo == "" {
				undo = path
			}
			v := string(value)
			if path == "/spec/containers/0" {
				v = `{"name":"first"}`
			}
			there, err := editAll("f", text, `[{"op":"add","path":"`+path+`","value":`+v+`}]`)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			back, err := editAll("f", there, `[{"op":"remove","path":"`+undo+`"}]`)
			if err != nil {
				t.Fatalf("%v\n%s", err, there)
			}
			if back != text {
				t.Fatalf("%s:\n%s\nbecame\n%s\nbecame\n%s", path, text, there, back)
			}
		}
	})
}

func FuzzEdit(f *testing.F) {
	files, _ := filepath.Glob("testdata/edit/*.txtar")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range txtar.Parse(text).Files {
			if part.Name == "before" || part.Name == "after" {
				f.Add(string(part.Data), "/spec/containers/0/env")
				f.Add(string(part.Data), "/spec/containers/-")
				f.Add(string(part.Data), "/metadata")
			}
		}
	}
	f.Add("a: &a [*a]\nkind: X\nt: {template: {spec: {containers: [{name: x, y: *a}]}}}", "/spec/containers/0/y")
	f.Add("? a\n: b\n--- !t\nkind: Pod\napiVersion: v1\nspec: !!map\n  containers: [? name : a]\n", "/spec/x")
	f.Fuzz(func(t *testing.T, text, path string) {
		if len(text) > 5000 {
			return
		}
		file, err := Parse("f", []byte(text))
		if err != nil {
			return
		}
		quoted, _ := json.Marshal(path)
		for i, template := range file.Templates {
			if !json.Valid(template.JSON) {
				t.Fatalf("template %d is no JSON: %s", i, template.JSON)
			}
			for _, patch := range []string{`[{"op":"add","path":` + string(quoted) + `,"value":{"name":"new","a":[1,"x\ny"]}}]`, `[{"op":"remove","path":` + string(quoted) + `}]`} {
				patches := make([][]byte, len(file.Templates))
				patches[i] = []byte(patch)
				out, err := file.Edit(patches)
				if err != nil {
					continue
				}
				n := template.root
				lead, tail := text[:lineBegin([]byte(text), n.start)], text[lineEnd([]byte(text), n.end):]
				for trimmed := strings.TrimLeft(tail, " \t\r\n"); strings.HasPrefix(trimmed, "#"); trimmed = strings.TrimLeft(tail, " \t\r\n") {
					tail = trimmed[lineEnd([]byte(trimmed), 0):] // comments that are indented deeper may belong to the template
				}
				if !strings.HasPrefix(string(out), lead) && !n.flow {
					t.Fatalf("the text before is another: %q", out)
				}
				// A list that becomes empty may end earlier, but what follows is the same.
				if !strings.HasSuffix(string(out), tail) {
					t.Fatalf("the text behind is another: %q", out)
				}
			}
		}
	})
}
