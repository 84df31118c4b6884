package router_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// get sends a GET with these header fields and returns the answer with its body.
func get(t *testing.T, c *http.Client, url string, header ...string) (*http.Response, string) {
	t.Helper()
	return do(t, c, "GET", url, nil, header...)
}

func do(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	res, text, err := try(c, method, url, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return res, text
}

// try is do for goroutines other than the test's.
func try(c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, "", err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res, string(text), errors.Join(err, res.Body.Close())
}

// talk is a connection to the router on which a test writes what it likes.
type talk struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// talk opens a connection to the router. Nothing on it may take very long.
func (m *mesh) talk(t *testing.T) *talk {
	t.Helper()
	conn, err := m.network.visit(context.Background(), m.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, real := m.network.(loopback); real {
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return &talk{t, conn, bufio.NewReader(conn)}
}

// head reads the head of an answer, as it is.
func (c *talk) head() (head string) {
	c.t.Helper()
	for line := ""; line != "\r\n"; head += line {
		var err error
		if line, err = c.r.ReadString('\n'); err != nil {
			c.t.Fatalf("after %q: %v", head, err)
		}
	}
	return head
}

func (c *talk) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads the final answer to a request of the method.
func (c *talk) answer(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	for err == nil && res.StatusCode == 100 {
		res, err = http.ReadResponse(c.r, &http.Request{Method: method})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("after %q: %v", body, err)
	}
	return res, string(body)
}

// rest returns what comes until the router closes the connection.
func (c *talk) rest() string {
	c.t.Helper()
	all, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("after %q: %v", all, err)
	}
	return string(all)
}

// raw sends bytes and returns all answers until the router closes.
func (m *mesh) raw(t *testing.T, input string) string {
	t.Helper()
	c := m.talk(t)
	c.say(input)
	return c.rest()
}
