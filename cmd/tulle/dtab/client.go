package dtab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/naming"
)

// client speaks the HTTP API of one replica of the namer.
type client struct {
	base           *url.URL
	name           string       // of the replica, as the user knows it: a URL or "pod x"
	pod, namespace string       // of the replica, if it is reached through the cluster
	why            func() error // what the way there failed at, if it is through the cluster
	token          string
	http           *http.Client
	others         []peer // the other replicas, as far as they are known
}

// peer is a replica to which there is no way yet.
type peer struct {
	name string
	open func(ctx context.Context) (c *client, closeWay func(), err error)
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// revision is what the namer says of a dtab that was written once.
type revision struct {
	Version string      `json:"version"`
	Time    time.Time   `json:"time"`
	By      string      `json:"by,omitempty"`
	Dtab    naming.Dtab `json:"dtab"`
}

// statusError is an answer that is none of 2xx.
type statusError struct {
	status int
	text   string // what the namer said
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("the namer answered %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + fault.Shown(e.text)
	}
	return s
}

// statusOf is the status of an answer that is none of 2xx, else 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return 0
}

// place says where the namer is.
func (c *client) place() string {
	if c.pod != "" {
		return "in " + c.name
	}
	return "at " + c.name
}

// do sends a request and returns the body of the answer.
func (c *client) do(ctx context.Context, method, path string, query url.Values, header http.Header, body string) ([]byte, http.Header, error) {
	u := c.base.JoinPath("api/1/", path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if body != "" || method == http.MethodPost || method == http.MethodPut {
		req.Header.Set("Content-Type", "application/dtab")
	}
	req.Header.Set("Accept", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, fault.Failed(fmt.Errorf("ask the namer %s: %w", c.place(), context.Cause(ctx)), "")
		}
		late := false
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			late, err = inner.Timeout(), inner.Err
		}
		if late {
			err = fmt.Errorf("it does not answer within %s", answerTime)
		}
		if c.pod != "" {
			if reason := c.why(); reason != nil {
				err = reason // of the connection one sees here only that it ends
			}
			return nil, nil, fault.Failed(fmt.Errorf("ask the namer %s: %w", c.place(), err),
				fmt.Sprintf("kubectl logs -n %s %s shows what it is at", c.namespace, c.pod))
		}
		return nil, nil, fault.Failed(fmt.Errorf("ask the namer %s: %w", c.place(), err),
			"is that its address? Without --namer it is looked for in the cluster")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, fault.Failed(fmt.Errorf("read the answer of the namer: %w", err), "")
	}
	if resp.StatusCode/100 == 2 {
		return text, resp.Header, nil
	}
	said := strings.TrimSpace(string(text[:min(len(text), 2000)]))
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return text, resp.Header, fault.Failed(fmt.Errorf("what answers at %s is no namer: it says %s with a web page", c.name, resp.Status), "the port of the namer is 4180")
	}
	err = &statusError{resp.StatusCode, said}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		err = fault.Failed(err, "give a token of your service account with --token or TULLE_TOKEN, or leave out --namer to go through the cluster")
	case http.StatusForbidden:
		err = fault.Failed(err, "bind the role tulle-dtab-viewer, or tulle-dtab-editor to write, to your user in the namespace of Tulle")
	case http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed:
		// whoever asked knows what it means
	default:
		err = fault.Failed(err, "")
	}
	return text, resp.Header, err
}

// read gets JSON.
func (c *client) read(ctx context.Context, path string, query url.Values, into any) (http.Header, error) {
	text, header, err := c.do(ctx, http.MethodGet, path, query, nil, "")
	if err != nil {
		return nil, err
	}
	return header, decode(text, into)
}

func decode(text []byte, into any) error {
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(into); err != nil {
		return fault.Failed(fmt.Errorf("read the answer of the namer: %w", err), "is it a namer that answers there?")
	}
	return nil
}

// missingError is the name of a dtab that is not there.
type missingError string

func (e missingError) Error() string { return fmt.Sprintf("there is no dtab %q", string(e)) }

// missing words a 404.
func missing(name string, err error) error {
	if statusOf(err) == http.StatusNotFound {
		return fault.Failed(missingError(name), "tulle dtab ls lists those there are")
	}
	return err
}

func (c *client) list(ctx context.Context) (names []string, err error) {
	_, err = c.read(ctx, "dtabs", nil, &names)
	if statusOf(err) == http.StatusNotFound {
		err = fault.Failed(fmt.Errorf("nothing at %s speaks the API of a namer", c.name), "its port is 4180")
	}
	return names, err
}

func (c *client) get(ctx context.Context, name string) (s source, err error) {
	header, err := c.read(ctx, "dtabs/"+name, nil, &s.Dtab)
	if err != nil {
		return s, missing(name, err)
	}
	s.Version = header.Get("ETag")
	return s, nil
}

func (c *client) history(ctx context.Context, name string) (all []revision, err error) {
	_, err = c.read(ctx, "dtabs/"+name+"/history", nil, &all)
	if statusOf(err) == http.StatusNotFound {
		if _, err := c.get(ctx, name); err != nil {
			return nil, err
		}
		return nil, fault.Failed(fmt.Errorf("this namer keeps no history of %s", name), "")
	}
	return all, err
}

func (c *client) create(ctx context.Context, name string, d naming.Dtab) error {
	_, _, err := c.do(ctx, http.MethodPost, "dtabs/"+name, nil, nil, d.Exact())
	if statusOf(err) == http.StatusConflict {
		return fault.Failed(fmt.Errorf("there is a dtab %q already", name), "tulle dtab apply writes one that is there")
	}
	return err
}

// update writes a dtab if it still has the version.
func (c *client) update(ctx context.Context, name string, d naming.Dtab, version string) error {
	_, _, err := c.do(ctx, http.MethodPut, "dtabs/"+name, nil, http.Header{"If-Match": {version}}, d.Exact())
	switch statusOf(err) {
	case http.StatusConflict, http.StatusPreconditionFailed:
		return stale(name, version)
	}
	return missing(name, err)
}

// stale says that somebody else was quicker.
func stale(name, version string) error {
	return fault.Failed(fmt.Errorf("somebody else has written %s: it no longer has the version %s", name, version),
		fmt.Sprintf("tulle dtab history %s shows what; bring your change into what tulle dtab get %s prints", name, name))
}

func (c *client) remove(ctx context.Context, name string) error {
	_, _, err := c.do(ctx, http.MethodDelete, "dtabs/"+name, nil, nil, "")
	return missing(name, err)
}

// delegate asks what the rules make of a path.
func (c *client) delegate(ctx context.Context, name, path, caller string, extra naming.Dtab) (d naming.Delegation, err error) {
	query := url.Values{"path": {path}}
	if caller != "" {
		query.Set("caller", caller)
	}
	if len(extra) > 0 {
		query.Set("dtab", extra.Exact())
	}
	_, err = c.read(ctx, "delegate/"+name, query, &d)
	if statusOf(err) == http.StatusServiceUnavailable {
		return d, fault.Failed(fmt.Errorf("a namer has not said yet what %s is", path), "try again; docs/namer.md says when a controller is ready")
	}
	return d, err
}
