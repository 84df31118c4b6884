package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

// Finding is something that is wrong, or that most likely was not meant.
type Finding struct {
	Code   Code   `json:"code"`
	Object string `json:"object,omitempty"` // such as deployment/web, or a file and its line
	// Namespace is the object's, empty for what has none.
	Namespace string `json:"namespace,omitempty"`
	Message   string `json:"message"` // one sentence
	Fix       string `json:"fix"`     // commands that can be pasted, or what to do
}

// Result is what a section of the check has found, as -o json has it.
type Result struct {
	Section  string    `json:"section"`
	Passed   []string  `json:"passed"`
	Findings []Finding `json:"findings"`
	// Unchecked says what could not be looked at, and why.
	Unchecked []string `json:"unchecked"`
}

// report collects results. It is safe for concurrent use.
type report struct {
	mu       sync.Mutex
	sections []*Result
	shown    int
	// to is where each section goes as soon as it is complete, so that somebody who waits sees how far it is; nil for
	// JSON, which is one value.
	to io.Writer
}

// section begins the part that all of the following belongs to.
func (r *report) section(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush()
	r.sections = append(r.sections, &Result{Section: name, Passed: []string{}, Findings: []Finding{}, Unchecked: []string{}})
}

func (r *report) last() *Result { return r.sections[len(r.sections)-1] }

// pass notes what is as it should be.
func (r *report) pass(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last().Passed = append(r.last().Passed, fmt.Sprintf(format, args...))
}

func (r *report) find(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last().Findings = append(r.last().Findings, f)
}

// skip notes what could not be looked at.
func (r *report) skip(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	why := "the API server did not say"
	switch {
	case apierrors.IsForbidden(err):
		why = "you may not: " + err.Error()
	case err != nil:
		why = err.Error()
	}
	r.last().Unchecked = append(r.last().Unchecked, what+": "+why)
}

func (r *report) count() (passed, findings, unchecked int) {
	for _, s := range r.sections {
		passed += len(s.Passed)
		findings += len(s.Findings)
		unchecked += len(s.Unchecked)
	}
	return passed, findings, unchecked
}

// print ends the report: it writes what has not been written.
func (r *report) print(w io.Writer) error {
	if r.to != nil {
		r.flush()
		return nil
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"sections": r.sections})
}

// flush writes the sections that are complete.
func (r *report) flush() {
	if r.to == nil {
		return
	}
	for ; r.shown < len(r.sections); r.shown++ {
		if r.shown > 0 {
			fmt.Fprintln(r.to)
		}
		r.sections[r.shown].write(r.to)
	}
}

// write writes a section for people.
func (s *Result) write(w io.Writer) {
	fmt.Fprintln(w, s.Section)
	for _, p := range s.Passed {
		fmt.Fprintf(w, "  ok    %s\n", fault.Shown(p))
	}
	for _, f := range s.Findings {
		where := ""
		if f.Object != "" {
			where = f.Object
			if f.Namespace != "" {
				where += " in namespace " + f.Namespace
			}
			where += ": "
		}
		fmt.Fprintf(w, "  %s  %s%s\n", f.Code, fault.Shown(where), fault.Shown(f.Message))
		for line := range strings.Lines(f.Fix) {
			fmt.Fprintf(w, "        fix: %s\n", fault.Shown(strings.TrimSuffix(line, "\n")))
		}
	}
	for _, u := range s.Unchecked {
		fmt.Fprintf(w, "  ?     %s\n", fault.Shown(u))
	}
}

// some lists names, no more than a few.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
