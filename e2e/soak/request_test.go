//go:build e2e

package soak

import (
	"math/rand/v2"
	"net/http"
)

const (
	// services is how many names there are, each with endpoints of its own.
	services = 8
	// maxBody is the size of the largest bodies, in bytes.
	maxBody = 100 << 10
	// replayBuffer is what the proxy keeps of a body to send it again: the default
	// of server.replayBufferKB.
	replayBuffer = 16 << 10
	// The header fields by which both ends tell requests apart.
	headerID   = "X-Soak-Id"
	headerSize = "X-Soak-Size" // of the answer that is asked for
)

// request is one of the million. Everything about it follows from its number.
type request struct {
	id      int
	service int
	method  string
	chunked bool
	size    int  // of its body
	answer  int  // of the answer's
	fresh   bool // on a new connection
	last    bool // on its connection
}

func plan(id int) request {
	rnd := rand.New(rand.NewPCG(uint64(id), 4140))
	r := request{id: id, service: rnd.IntN(services), method: http.MethodGet}
	switch n := rnd.IntN(100); {
	case n < 25:
		r.method = http.MethodPost
	case n < 45:
		r.method = http.MethodPut
	case n < 50:
		r.method = http.MethodDelete
	}
	if r.method == http.MethodPost || r.method == http.MethodPut {
		r.size, r.chunked = 1+size(rnd), rnd.IntN(3) == 0
	}
	r.answer = size(rnd)
	r.fresh, r.last = rnd.IntN(64) == 0, rnd.IntN(64) == 0
	return r
}

// size is small in most cases, as it is in life.
func size(rnd *rand.Rand) int {
	switch n := rnd.IntN(100); {
	case n < 80:
		return rnd.IntN(1 << 10)
	case n < 95:
		return rnd.IntN(replayBuffer)
	}
	return rnd.IntN(maxBody)
}

// replayable reports whether the proxy may send the request again after it has
// failed: its method allows it, and the body can still be had.
func (r *request) replayable() bool {
	return r.method != http.MethodPost && r.size <= replayBuffer
}

// noise is what bodies are cut from.
var noise = func() []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, maxBody+64<<10)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}()

// question and reply are the bodies of a request and of its answer: no two
// requests that are near each other have the same.
func question(id, size int) []byte { return noise[id%(64<<10):][:size] }
func reply(id, size int) []byte    { return noise[(id*7+1)%(64<<10):][:size] }
