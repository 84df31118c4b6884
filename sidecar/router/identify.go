package router

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// Kinds of identifiers, by their names in configurations of Linkerd 1.x.
const (
	IdentifyHeaderToken   = "io.l5d.header.token"  // a header's value is one element
	IdentifyHeader        = "io.l5d.header"        // a header's value is a path
	IdentifyPath          = "io.l5d.path"          // the first segments of the request's path
	IdentifyMethodAndHost = "io.l5d.methodAndHost" // /1.1/<method>/<host>
	IdentifyStatic        = "io.l5d.static"        // always the same path
)

// Identifier is one way to find out what a request is for: its service name is the
// prefix of the binder and what the identifier finds. Fields that are not of its Kind
// are zero.
type Identifier struct {
	Kind     string
	Header   string      // HeaderToken: empty is Host; Header: empty is l5d-name
	Segments int         // Path: how many; 0 is 1
	Consume  bool        // Path: take them off the path that is sent on
	URIInDst bool        // MethodAndHost: append the request's path
	Path     naming.Path // Static
}

const headerName = "l5d-name"

// byHost reports whether the whole Host is the name.
func (i *Identifier) byHost() bool {
	return i.Kind == IdentifyHeaderToken && (i.Header == "" || strings.EqualFold(i.Header, "host"))
}

// identified is what an identifier makes of a request: an id for the binder, which
// lasts as long as the request's head, or why there is none.
type identified struct {
	id     []byte
	reason string
	rest   []byte // the path to send on instead; nil leaves it
	err    error  // what it says is no name; no other identifier is asked
}

// identifier is an Identifier that is ready for use.
type identifier struct {
	Identifier
	printed []byte // Path
	absent  string // why there is none if the header is not there
}

// newIdentifiers returns nil for what needs no look at an identifier: the Host alone.
func newIdentifiers(all []Identifier) []identifier {
	if len(all) == 0 || len(all) == 1 && all[0].byHost() {
		return nil
	}
	ready := make([]identifier, 0, len(all))
	for _, i := range all {
		switch {
		case i.byHost():
			i.Header = ""
		case i.Kind == IdentifyHeader && i.Header == "":
			i.Header = headerName
		case i.Kind == IdentifyPath && i.Segments <= 0:
			i.Segments = 1
		}
		absent := i.Header
		if absent == "" {
			absent = "Host"
		}
		ready = append(ready, identifier{i, []byte(i.Path.String()), absent + " header is absent"})
	}
	return ready
}

// identify finds out what the request is for by the first identifier that can tell.
func (o *Outgoing) identify(x *exchange, r *routing) *Problem {
	if o.identifiers == nil {
		authority := x.authority()
		if len(authority) == 0 {
			return unidentified(&x.req, "Host header is absent")
		}
		// No authority begins with a slash, so it is never a path.
		r.name, _ = o.cfg.Binder.Name(r.namespace, authority, r.override, x.started)
		return nil
	}
	var reasons []string
	for i := range o.identifiers {
		found := o.identifiers[i].find(x)
		if found.id == nil && found.err == nil {
			reasons = append(reasons, found.reason)
			continue
		}
		err := found.err
		if err == nil {
			r.name, err = o.cfg.Binder.Name(r.namespace, found.id, r.override, x.started)
		}
		if err != nil { // only a header's value can be wrong
			return &Problem{Status: 400, Code: codeNoHost, Message: o.identifiers[i].Header + ": " + err.Error(),
				Hint: "write the name as a path, such as /cart"}
		}
		if found.rest != nil {
			x.req.Path = found.rest
		}
		return nil
	}
	return unidentified(&x.req, strings.Join(reasons, "; "))
}

func unidentified(req *wire.Request, reason string) *Problem {
	return &Problem{Status: 400, Code: codeNoHost, Message: fmt.Sprintf("Unknown destination: %s %s / %s", req.Method, req.Target, reason),
		Hint: "name the service as the router's identifier wants it; without one that is in the Host header or in the URL"}
}

// find uses x.scratch for what is not in the head as it is.
func (i *identifier) find(x *exchange) identified {
	req := &x.req
	switch i.Kind {
	case IdentifyHeaderToken:
		value := req.Authority
		if i.Header != "" {
			value = req.Header.Get(i.Header)
		}
		if len(value) == 0 {
			return identified{reason: i.absent}
		}
		if value[0] != '/' {
			return identified{id: value}
		}
		x.scratch = appendElement(x.scratch[:0], value) // an element, though it looks like a path
		return identified{id: x.scratch}
	case IdentifyHeader:
		value := req.Header.Get(i.Header)
		if len(value) == 0 {
			return identified{reason: i.absent}
		}
		if value[0] != '/' {
			_, err := naming.ParsePath(string(value))
			return identified{err: err}
		}
		return identified{id: value}
	case IdentifyPath:
		return i.segments(x)
	case IdentifyMethodAndHost:
		return i.methodAndHost(x)
	case IdentifyStatic:
		return identified{id: i.printed}
	}
	return identified{reason: "the identifier " + i.Kind + " is unknown"}
}

// segments takes the first segments of the path as they are written, without a look
// at what comes after them.
func (i *identifier) segments(x *exchange) identified {
	path, _, _ := bytes.Cut(x.req.Path, []byte("?"))
	id, rest := x.scratch[:0], path
	for n := 0; n < i.Segments; n++ {
		if len(rest) == 0 || rest[0] != '/' {
			return i.tooShort(path)
		}
		rest = rest[1:]
		end := bytes.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			return i.tooShort(path)
		}
		id = appendElement(id, rest[:end])
		rest = rest[end:]
	}
	x.scratch = id
	found := identified{id: id}
	if i.Consume {
		// What is left is the tail of the path, with the query.
		found.rest = x.req.Path[len(path)-len(rest):]
		switch {
		case len(found.rest) == 0:
			found.rest = slash
		case len(rest) == 0:
			found.rest = append([]byte("/"), found.rest...)
		}
	}
	return found
}

var slash = []byte("/")

func (i *identifier) tooShort(path []byte) identified {
	return identified{reason: fmt.Sprintf("fewer than %d segments in the path %s", i.Segments, path)}
}

func (i *identifier) methodAndHost(x *exchange) identified {
	req := &x.req
	id := append(x.scratch[:0], "/1."+strconv.Itoa(int(req.Minor))...)
	id = appendElement(id, req.Method)
	if req.Minor > 0 {
		if len(req.Authority) == 0 {
			x.scratch = id
			return identified{reason: "Host header is absent"}
		}
		id = appendElement(id, lower(req.Authority))
	}
	if i.URIInDst {
		path, _, _ := bytes.Cut(req.Path, []byte("?"))
		for segment := range bytes.SplitSeq(path, []byte("/")) {
			if len(segment) > 0 {
				id = appendElement(id, segment)
			}
		}
	}
	x.scratch = id
	return identified{id: id}
}

// lower returns b in lower case, b itself if it is.
func lower(b []byte) []byte {
	for _, c := range b {
		if 'A' <= c && c <= 'Z' {
			return bytes.ToLower(b)
		}
	}
	return b
}

// appendElement appends /element as naming.Path prints it.
func appendElement(to, element []byte) []byte {
	to = append(to, '/')
	for _, c := range element {
		if !showable(c) {
			return append(to, naming.Path{string(element)}.String()[1:]...)
		}
	}
	return append(to, element...)
}

// showable reports whether a byte stands for itself in a printed element.
func showable(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("_:.#$%-", c) >= 0
}
