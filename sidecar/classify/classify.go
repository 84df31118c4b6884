// Package classify says of each answer whether it is a success, a failure, or a
// failure that may be sent again: Linkerd's response classifiers for HTTP/1, and
// the headers by which applications and other proxies have a say in it.
//
// It does not retry, count or eject; it gives those who do the same word for the
// same answer. What only the router knows, it must add: a request whose body is
// gone is not sent again, whatever its class.
//
// Invariant: no answer to CONNECT is Retryable, and only the kinds named
// retryable, or the application itself by l5d-retryable, make one so.
//
//	kind, err := classify.Parse("io.l5d.http.retryableRead5XX")
//	class := kind.Class(req.Method, res.Status)
//	class = class.Override(req.Method, res.Header.Get(classify.HeaderRetryable))
//	write(classify.HeaderSuccessClass, class.Value())
package classify

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// The headers of responses that carry classes.
const (
	// HeaderSuccessClass tells the proxies on the way back what the class is.
	HeaderSuccessClass = "l5d-success-class"
	// HeaderRetryable is "true" on a failure that may be sent again whatever its
	// method: proxies set it, and applications may.
	HeaderRetryable = "l5d-retryable"
)

// Class is what an answer, or its absence, is held to be.
type Class uint8

// The classes.
const (
	Success   Class = iota
	Failure         // final: not to be sent again
	Retryable       // a failure too, but it may be sent again if a budget allows
)

// Failed reports whether the class counts as a failure.
func (c Class) Failed() bool { return c != Success }

// Value returns what l5d-success-class says of the class: 1.0 or 0.0.
func (c Class) Value() string {
	if c == Success {
		return "1.0"
	}
	return "0.0"
}

// String returns the name of the class.
func (c Class) String() string {
	switch c {
	case Success:
		return "success"
	case Failure:
		return "failure"
	}
	return "retryable failure"
}

// Override returns the class of an answer to a request of this method whose
// l5d-retryable header is value (nil if it has none): failures marked true are
// Retryable, but never those of CONNECT.
func (c Class) Override(method, value []byte) Class {
	if c == Failure && wire.EqualFold(value, "true") && string(method) != "CONNECT" {
		return Retryable
	}
	return c
}

// Kind is a response classifier. The zero value is the default, NonRetryable5XX.
type Kind uint8

// The kinds: which methods they send again after a 5XX or an error.
const (
	NonRetryable5XX        Kind = iota // none
	RetryableRead5XX                   // the safe ones: GET HEAD OPTIONS TRACE
	RetryableIdempotent5XX             // and PUT DELETE
	RetryableAll5XX                    // and POST PATCH
	AllSuccessful                      // none, and 5XX are successes; only errors are failures
)

// Prefix is that of all kinds in configurations.
const Prefix = "io.l5d.http."

var names = [...]string{"nonRetryable5XX", "retryableRead5XX", "retryableIdempotent5XX", "retryableAll5XX", "allSuccessful"}

// Names returns the names of all kinds, in full.
func Names() []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = Prefix + name
	}
	return all
}

// String returns the kind's name in full.
func (k Kind) String() string {
	if int(k) >= len(names) {
		return "Kind(" + strconv.Itoa(int(k)) + ")"
	}
	return Prefix + names[k]
}

// Parse returns the kind of a name, which may lack the prefix io.l5d.http. The
// error of an unknown one lists those that there are.
func Parse(name string) (Kind, error) {
	short := strings.TrimPrefix(name, Prefix)
	for i := range names {
		if names[i] == short {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("unknown response classifier %q; the classifiers are %s", name, strings.Join(Names(), ", "))
}

// Class returns the class of an answer with this status. Only 5XX are failures;
// a status above 599 counts as one of them (RFC 9110, section 15).
func (k Kind) Class(method []byte, status int) Class {
	if status < 500 || k == AllSuccessful {
		return Success
	}
	return k.Failed(method)
}

// Failed returns the class of a request that got no answer that can be used: it
// timed out, could not be written, or what came back was cut or no HTTP.
func (k Kind) Failed(method []byte) Class {
	if k.repeats(method) {
		return Retryable
	}
	return Failure
}

func (k Kind) repeats(method []byte) bool {
	if k == AllSuccessful {
		return false
	}
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return k >= RetryableRead5XX
	case "PUT", "DELETE":
		return k >= RetryableIdempotent5XX
	case "POST", "PATCH":
		return k >= RetryableAll5XX
	}
	return false // CONNECT, and methods that nobody has defined
}

// Succeeded reports what a proxy further on found, by the value of its
// l5d-success-class: a number above 0 is a success, anything else a failure.
func Succeeded(value []byte) bool {
	switch string(value) {
	case "1.0":
		return true
	case "0.0":
		return false
	}
	if len(value) > 32 { // nothing that a proxy writes
		return false
	}
	number, err := strconv.ParseFloat(string(value), 64)
	return err == nil && number > 0
}
