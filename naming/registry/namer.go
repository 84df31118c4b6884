package registry

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/file"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

const (
	mark = "#" // the first element of configured names
	// maxFileElements bounds the directories that a name may lead through, since each costs a
	// question.
	maxFileElements = 8
	// defaultEnvVar is where KubernetesHere looks, as in Linkerd 1.x.
	defaultEnvVar = "POD_NAMESPACE"
)

// namer is a Namer that is ready to answer.
type namer struct {
	Namer
	prefix         naming.Path // with the mark
	args           int         // elements of an id after prefix, of the Kubernetes kinds
	namespace      string      // KubernetesHere
	pattern        naming.Pattern
	files          *file.Namer // of a Files with a directory
	transformation *Transformation
}

func (r *Registry) namer(n Namer) (*namer, error) {
	made := &namer{Namer: n, prefix: append(naming.Path{mark}, n.Prefix...), args: 3}
	var err error
	switch n.Kind {
	case Kubernetes, KubernetesExternal:
	case KubernetesHere:
		if made.EnvVar == "" {
			made.EnvVar = defaultEnvVar
		}
		made.args, made.namespace = 2, strings.ToLower(r.cfg.Getenv(made.EnvVar))
		if !rewrite.IsLabel(made.namespace) {
			return nil, fmt.Errorf("kind %s: the variable %s is %q and must be the namespace; a pod gets it from metadata.namespace", n.Kind, made.EnvVar, made.namespace)
		}
	case Files:
		if n.RootDir != "" {
			made.files = file.New(file.Config{Root: n.RootDir, Inet: r.cfg.Inet, Logger: r.cfg.Logger})
		}
	case Rewrite:
		if made.pattern, err = readPattern(n.Pattern, n.Name); err != nil {
			return nil, fmt.Errorf("kind %s: %w", n.Kind, err)
		}
	default:
		return nil, fmt.Errorf("kind %q is none", n.Kind)
	}
	if n.LabelSelector != "" {
		made.args++
	}
	if made.transformation, err = r.Transformation(n.Transformers); err != nil {
		return nil, err
	}
	return made, nil
}

// readPattern returns the pattern of a Rewrite, after a look at whether name is a path with
// what the pattern captures.
func readPattern(pattern, name string) (naming.Pattern, error) {
	p, err := naming.ParsePattern(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	example := map[string]string{}
	for _, v := range p.Vars() {
		example[v] = "x"
	}
	if _, err := naming.ParsePath(naming.Substitute(name, example)); err != nil {
		return nil, fmt.Errorf("name %q is no path, with what pattern %s captures in it: %w", name, p, err)
	}
	return p, nil
}

// mayShareIDs reports whether an id can be one of both namers.
func (n *namer) mayShareIDs(other *namer) bool {
	if n.Kind == Rewrite || other.Kind == Rewrite || !begins(n.prefix, other.prefix) && !begins(other.prefix, n.prefix) {
		return false
	}
	return n.Kind == Files || other.Kind == Files || len(n.prefix)+n.args == len(other.prefix)+other.args
}

// resolve answers for a path that begins with the namer's prefix. The answer is as it is
// without transformers.
func (n *namer) resolve(p naming.Path, state func(id naming.Path) naming.Replicas) naming.Resolution {
	switch n.Kind {
	case Rewrite:
		return n.rewrite(p[len(n.prefix):])
	case Files:
		return n.file(p, state)
	}
	bound, ok := n.service(p)
	if !ok {
		return naming.Resolution{}
	}
	return ask(bound, state)
}

func ask(bound naming.Bound, state func(id naming.Path) naming.Replicas) naming.Resolution {
	switch r := state(bound.ID); r.State {
	case naming.StateNeg:
		return naming.Resolution{}
	case naming.StateBound:
		return naming.Resolution{Bound: &bound}
	case naming.StateFailed:
		return naming.Resolution{Err: fmt.Errorf("resolve %s: %s", bound.ID, r.Cause)}
	}
	return naming.Resolution{Pending: true}
}

// service splits a name of one of the Kubernetes kinds into its id and the rest. The id is in
// lower case, but of KubernetesExternal, whose ids are as they came. It is false for names too
// short and for those that no Service can have, so that nobody is asked about them.
func (n *namer) service(p naming.Path) (naming.Bound, bool) {
	end := len(n.prefix) + n.args
	if len(p) < end {
		return naming.Bound{}, false
	}
	id, own := p[:end:end], false
	for i := len(n.prefix); i < end; i++ {
		e := strings.ToLower(p[i])
		if isValue := n.LabelSelector != "" && i == end-1; !isValue && !rewrite.IsLabel(e) || isValue && !isLabelValue(e) {
			return naming.Bound{}, false
		}
		if e == p[i] || n.Kind == KubernetesExternal {
			continue
		}
		if !own {
			id, own = id.Join(), true
		}
		id[i] = e
	}
	return naming.Bound{ID: id, Residual: p[end:]}, true
}

// isLabelValue reports whether s, in lower case, may be the value of a label.
func isLabelValue(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// file asks for one element, then for two, until there is such a file; what follows is residual.
func (n *namer) file(p naming.Path, state func(id naming.Path) naming.Replicas) naming.Resolution {
	for end := len(n.prefix) + 1; end <= min(len(p), len(n.prefix)+maxFileElements); end++ {
		if r := ask(naming.Bound{ID: p[:end:end], Residual: p[end:]}, state); !isNeg(r) {
			return r
		}
	}
	return naming.Resolution{}
}

// rewrite answers for the elements after the prefix. Those beyond the pattern are dropped.
func (n *namer) rewrite(args naming.Path) naming.Resolution {
	if len(args) < len(n.pattern) {
		return naming.Resolution{}
	}
	vars, ok := n.pattern.Capture(args[:len(n.pattern)].String())
	if !ok {
		return naming.Resolution{}
	}
	text := naming.Substitute(n.Namer.Name, vars)
	dst, err := naming.ParsePath(text)
	if err != nil {
		return naming.Resolution{Err: fmt.Errorf("rewrite %s to %s: %w", args, text, err)}
	}
	return naming.Resolution{Tree: naming.Leaf(dst)}
}

// leaf returns the leaf id of one of the namer's ids.
func (n *namer) leaf(id naming.Path) (naming.Path, bool) {
	if !begins(id, n.prefix) {
		return nil, false
	}
	switch n.Kind {
	case Rewrite:
		return nil, false
	case Files:
		rest := id[len(n.prefix):]
		return append(naming.Path{mark, Files}, rest...), len(rest) > 0
	}
	if bound, ok := n.service(id); !ok || len(bound.Residual) > 0 {
		return nil, false
	}
	leaf := append(make(naming.Path, 0, 7), mark, Kubernetes)
	switch n.Kind {
	case KubernetesHere:
		leaf = append(leaf, n.namespace)
	case KubernetesExternal:
		leaf[1] = KubernetesExternal
	}
	for i, e := range id[len(n.prefix):] {
		if n.LabelSelector != "" && i == n.args-1 {
			leaf = append(leaf, n.LabelSelector)
		}
		leaf = append(leaf, strings.ToLower(e))
	}
	return leaf, true
}

func isNeg(r naming.Resolution) bool {
	return r.Bound == nil && r.Tree == nil && !r.Pending && r.Err == nil
}
