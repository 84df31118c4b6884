package inject

import (
	"bytes"
	"encoding/json"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/webhook/workload"
)

// Forms of the output, beside the one of each input.
const (
	asYAML = "yaml"
	asJSON = "json"
)

// joined makes one text of several. One that begins where another ends gets a line "---" in between, unless all are
// JSON.
func joined(files []*workload.File, texts [][]byte, form string) ([]byte, error) {
	var out bytes.Buffer
	separate := form != asJSON && slices.ContainsFunc(files, func(f *workload.File) bool { return !f.JSON || form == asYAML })
	for i, text := range texts {
		text, err := converted(files[i], text, form)
		if err != nil {
			return nil, err
		}
		if len(texts) == 1 {
			return text, nil
		}
		if i < len(texts)-1 && !bytes.HasSuffix(text, []byte("\n")) {
			f, err := workload.Parse(files[i].Name, text)
			if err != nil {
				return nil, err
			}
			text = f.Ended()
		}
		text = bytes.TrimPrefix(text, []byte("\uFEFF")) // it means the beginning of a file
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if out.Len() > 0 {
			if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
				out.WriteByte('\n')
			}
			if separate && !beginsDocument(text) {
				out.WriteString("---\n")
			}
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

// beginsDocument reports whether a text begins with "---", maybe after comments.
func beginsDocument(text []byte) bool {
	for line := range bytes.Lines(text) {
		switch line := bytes.TrimSpace(line); {
		case len(line) == 0 || line[0] == '#':
		default:
			return bytes.Equal(line, []byte("---")) || bytes.HasPrefix(line, []byte("--- "))
		}
	}
	return true
}

// converted returns a text in the form asked for.
func converted(f *workload.File, text []byte, form string) ([]byte, error) {
	if form == "" || form == asYAML && !f.JSON || form == asJSON && f.JSON {
		return text, nil
	}
	f, err := workload.Parse(f.Name, text)
	if err != nil {
		return nil, err
	}
	values, err := f.Values()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, v := range values {
		switch {
		case v == nil:
		case form == asJSON:
			if err := json.Indent(&out, v, "", "  "); err != nil {
				return nil, err
			}
			out.WriteByte('\n')
		default:
			if out.Len() > 0 {
				out.WriteString("---\n")
			}
			t, err := yaml.JSONToYAML(v)
			if err != nil {
				return nil, err
			}
			out.Write(t)
		}
	}
	return out.Bytes(), nil
}
