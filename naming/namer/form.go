package namer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// maxBody bounds a dtab in bytes; Kubernetes would not store a larger one.
const maxBody = 1 << 20

// bodyTime bounds the time that a body takes to come, be it read or not.
const bodyTime = 10 * time.Second

// bodyError is a body that did not come as it should.
type bodyError struct {
	status int
	text   string
}

func (e *bodyError) Error() string { return e.text }

// limitBody gives a request's body bodyTime from now on. What nobody reads net/http does, when the
// answer is there.
func limitBody(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // a reader that has none blocks nobody
	}
}

// readBody reads a body in bodyTime from now on. Its error is a *bodyError, unless the caller is gone.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	large := &bodyError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes, the most that are read", maxBody)}
	if r.ContentLength > maxBody {
		return nil, large
	}
	limitBody(w, r) // anew, for it may have taken long to find out who it is
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case err == nil:
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // what is left is to wait for the caller's end
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, large
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &bodyError{http.StatusRequestTimeout, fmt.Sprintf("the body has not come within %v", bodyTime)}
	}
	return body, err
}

// refuseBody answers for a body that could not be read, or was no good.
func refuseBody(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if e := (*bodyError)(nil); errors.As(err, &e) {
		status = e.status
	}
	refuse(w, status, err.Error())
}

// Media types of a dtab.
const (
	typeJSON = "application/json" // [{"prefix":"/svc","dst":"/host"}]
	typeDtab = "application/dtab" // /svc=>/host
	typeText = "text/plain"       // the same
)

// etag is the form of a version outside: base64 without quotes, as namerd has it.
func etag(version string) string { return base64.StdEncoding.EncodeToString([]byte(version)) }

// versionOf reads what etag wrote, in quotes as HTTP has them or without. What is not base64 is
// no version of ours and matches none; nor does the empty one.
func versionOf(etag string) string {
	etag = strings.TrimSpace(etag)
	if n := len(etag); n >= 2 && etag[0] == '"' && etag[n-1] == '"' {
		etag = etag[1 : n-1]
	}
	version, err := base64.StdEncoding.DecodeString(etag)
	if err != nil {
		return ""
	}
	return string(version)
}

// accepted returns the first media type of the Accept header that a dtab can have, and JSON
// if there is none.
func accepted(r *http.Request) string {
	for _, types := range r.Header.Values("Accept") {
		for t := range strings.SplitSeq(types, ",") {
			t, _, _ = strings.Cut(t, ";")
			switch t = strings.ToLower(strings.TrimSpace(t)); t {
			case typeJSON, typeDtab, typeText:
				return t
			case "*/*", "application/*":
				return typeJSON
			case "text/*":
				return typeText
			}
		}
	}
	return typeJSON
}

// print returns the dtab in the form of a media type, with a newline. Weights are all there,
// for who has read a dtab may write it back.
func print(d naming.Dtab, as string) []byte {
	if as != typeJSON {
		return []byte(d.Lossless() + "\n")
	}
	return line(rules(d))
}

// rules returns a dtab that is a list in JSON even if it is empty.
func rules(d naming.Dtab) naming.Dtab {
	if d == nil {
		return naming.Dtab{}
	}
	return d
}

// line is v as JSON with a newline; trees keep their & and >.
func line(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil // what we send has nothing that JSON has not
	}
	return b.Bytes()
}

// readDtab reads the body of a write in the form its Content-Type says.
func readDtab(w http.ResponseWriter, r *http.Request) (naming.Dtab, error) {
	given := r.Header.Get("Content-Type")
	as, _, err := mime.ParseMediaType(given)
	if err != nil || as != typeJSON && as != typeDtab && as != typeText {
		return nil, fmt.Errorf("Invalid Content-Type %q. ", given) //lint:ignore ST1005 the text is namerd's
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, fmt.Errorf("read dtab: %w", err)
	}
	if as != typeJSON {
		return naming.ParseDtab(string(body))
	}
	var rules []*naming.Dentry
	if err := json.Unmarshal(body, &rules); err != nil {
		if parse := (*naming.ParseError)(nil); errors.As(err, &parse) {
			return nil, parse // its message alone, as for text
		}
		if other := (*json.UnmarshalTypeError)(nil); errors.As(err, &other) {
			return nil, fmt.Errorf(`read dtab: found %s at byte %d; want a list such as [{"prefix":"/svc","dst":"/host"}]`, other.Value, other.Offset)
		}
		return nil, fmt.Errorf("read dtab: %w", err)
	}
	if rules == nil { // what a program sends that has lost its rules
		return nil, errors.New(`read dtab: found null; want a list such as [{"prefix":"/svc","dst":"/host"}], or [] for no rules`)
	}
	dtab := make(naming.Dtab, len(rules))
	for i, r := range rules {
		if r == nil {
			return nil, fmt.Errorf("The dtab contains invalid dentries: %s", body) //lint:ignore ST1005 the text is namerd's
		}
		dtab[i] = *r
	}
	return dtab, nil
}
