// Package helloworld is the example application of the documentation, the demo and the end-to-end tests: a
// service that says a word, and may call another one first, so that "Hello" and "world" make a sentence.
//
// It is not a part of the mesh and knows nothing of it but two habits that every application in a mesh
// should have: it takes its proxy from http_proxy, and it hands the l5d-ctx-* headers of a request
// on to the requests that it makes on its behalf.
//
// Invariant: an answer with status 200 carries the text and nothing else, no newline either.
//
//	app, err := helloworld.New(helloworld.Config{Text: "Hello", Target: "world", PodIP: "10.1.0.5"})
//	http.ListenAndServe(":7777", app) // GET / → Hello (10.1.0.5) world (10.1.0.9)!!
package helloworld

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxLatency keeps an answer within the server's timeouts.
	maxLatency = 10 * time.Second
	// targetTimeout ends a call to the target while the caller can still be told.
	targetTimeout = 10 * time.Second
	// idlePerTarget is how many connections are kept: with Go's two, load opens one for most requests.
	idlePerTarget = 64
	// contextPrefix begins the names of the headers that belong to a request as a whole.
	contextPrefix = "l5d-ctx"
)

// Config says what the application answers.
type Config struct {
	// Text is the word to say.
	Text string
	// Target, if not empty, is the host to call first; what it says follows Text.
	Target string
	// PodIP, if not empty, follows Text in brackets.
	PodIP string
	// Latency is slept before each answer; over 10 s is refused.
	Latency time.Duration
	// FailureRate is the share of answers that fail, from 0 to 1.
	FailureRate float64
	// JSON wraps the answer in an object.
	JSON bool
	// Transport, if not nil, makes the calls in place of Go's own, which takes the proxy from the environment.
	Transport http.RoundTripper
}

// App is the application as an http.Handler. It is safe for concurrent use.
type App struct {
	// read-only after New
	text   string
	target string
	json   bool
	client *http.Client

	latency     atomic.Int64 // time.Duration
	failureRate atomic.Pointer[float64]
	draining    atomic.Bool
}

// New checks cfg.
func New(cfg Config) (*App, error) {
	var errs []error
	if cfg.Latency > maxLatency {
		errs = append(errs, fmt.Errorf("latency is %s, it must not be over %s", cfg.Latency, maxLatency))
	}
	if !isShare(cfg.FailureRate) {
		errs = append(errs, fmt.Errorf("failure rate is %v, it must be between 0.0 and 1.0", cfg.FailureRate))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = idlePerTarget
		cfg.Transport = transport
	}
	a := &App{
		text:   cfg.Text,
		target: cfg.Target,
		json:   cfg.JSON,
		client: &http.Client{Transport: cfg.Transport, Timeout: targetTimeout},
	}
	if cfg.PodIP != "" {
		a.text += " (" + cfg.PodIP + ")"
	}
	a.latency.Store(int64(cfg.Latency))
	a.failureRate.Store(&cfg.FailureRate)
	return a, nil
}

// Drain makes every further answer the last on its connection, so that callers come back elsewhere.
func (a *App) Drain() { a.draining.Store(true) }

// ServeHTTP implements http.Handler.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	switch r.URL.Path {
	case "/setLatency":
		control(w, r, "latency", a.setLatency)
	case "/setFailureRate":
		control(w, r, "failureRate", a.setFailureRate)
	default:
		a.say(w, r)
	}
}

func (a *App) say(w http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(time.Duration(a.latency.Load()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return
	}
	if rand.Float64() < *a.failureRate.Load() {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	text := a.text
	if a.target != "" {
		said, err := a.ask(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		text += " " + said
	}
	if !a.json {
		_, _ = io.WriteString(w, text+"!") // A caller who has gone away misses nothing.
		return
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(map[string]string{"api_result": text}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(bytes.TrimSuffix(body.Bytes(), []byte("\n")))
}

// ask calls the target on behalf of a request.
func (a *App) ask(r *http.Request) (string, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+a.target, nil)
	if err != nil {
		return "", err
	}
	for name, values := range r.Header {
		if strings.HasPrefix(strings.ToLower(name), contextPrefix) && len(values) > 0 {
			req.Header[name] = values[:1]
		}
	}
	res, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("invalid response %d", res.StatusCode)
	}
	return string(body), nil
}

// control sets something to the value of a parameter.
func control(w http.ResponseWriter, r *http.Request, parameter string, set func(string) error) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST required", http.StatusMethodNotAllowed)
		return
	}
	value := r.FormValue(parameter)
	if value == "" {
		http.Error(w, "missing required parameter: "+parameter, http.StatusBadRequest)
		return
	}
	if err := set(value); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

func (a *App) setLatency(value string) error {
	latency, err := time.ParseDuration(value)
	if err != nil {
		return errors.New("latency is not a valid duration")
	}
	a.latency.Store(int64(latency))
	return nil
}

func (a *App) setFailureRate(value string) error {
	rate, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return errors.New("failureRate is not a valid float")
	}
	if !isShare(rate) {
		return errors.New("failureRate must be between 0.0 and 1.0")
	}
	a.failureRate.Store(&rate)
	return nil
}

// isShare is false for what is no number, too.
func isShare(f float64) bool { return f >= 0 && f <= 1 }
