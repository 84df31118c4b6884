// Package tracing holds the ids by which spans of one request find each other,
// and the headers that carry them from hop to hop: l5d-ctx-trace, l5d-reqid,
// l5d-sample, and the B3 headers of Zipkin.
//
// It records no spans and sends none. It reads no clock, and it decides about
// sampling only if the caller of a request did, by l5d-sample: all others leave
// that to whoever records spans.
//
// Invariant: whatever a request carries, the hop after this one gets ids that
// are its own, and the trace id that came, or a new one if none could be read.
// Nothing a request carries is an error.
//
//	in, _ := tracing.Parse(value)        // of l5d-ctx-trace; zero if there is none
//	server := in.Child()                 // of the request's way in; maybe a root
//	server = sampler.Decide(server, rate) // of l5d-sample, if there is one
//	client := server.Child()             // of its way out, the same for all attempts
//	head = client.AppendTo(head)
package tracing

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"
)

// The header fields, but for those of B3.
const (
	Header          = "l5d-ctx-trace" // a Context
	HeaderRequestID = "l5d-reqid"     // the trace id, for people
	HeaderSample    = "l5d-sample"    // the share of traces to keep, 0 to 1
)

// Flags are what is known about the sampling of a trace. Other bits than these
// are handed on.
type Flags uint64

// The bits that Linkerd 1.x and Finagle know.
const (
	Debug   Flags = 1 << iota // always sample
	Known                     // it has been decided whether to sample
	Sampled                   // and it is so
)

// Sampled reports whether it is decided that the spans of the trace are kept.
func (f Flags) Sampled() bool { return f&Debug != 0 || f&(Known|Sampled) == Known|Sampled }

// Context is a span as a header carries it. The zero value is no span. It is a
// value of five words; concurrent use is up to whoever holds it.
type Context struct {
	Span   uint64
	Parent uint64 // Span, if it has none
	Trace  uint64 // that of the root's span, if nobody said otherwise
	High   uint64 // the upper half of a trace id of 128 bits; 0 if it has 64
	Flags  Flags
}

// The layout of Header: big-endian words, in base64 (RFC 4648, section 4) with
// padding. The last word is there only if the trace id has 128 bits.
const (
	shortSize = 32
	longSize  = 40
)

// Parse reads a value of Header. It is false, and the Context zero, for anything
// that is not 32 or 40 bytes in padded base64, and for ids of 0, which B3 has for
// none.
func Parse(value []byte) (Context, bool) {
	var raw [longSize + 2]byte // what three bytes for each four may write
	short := len(value) == (shortSize+2)/3*4
	if !short && len(value) != (longSize+2)/3*4 {
		return Context{}, false
	}
	n, err := base64.StdEncoding.Decode(raw[:], value)
	if err != nil || short && n != shortSize || !short && n != longSize {
		return Context{}, false
	}
	c := Context{
		Span:   binary.BigEndian.Uint64(raw[0:]),
		Parent: binary.BigEndian.Uint64(raw[8:]),
		Trace:  binary.BigEndian.Uint64(raw[16:]),
		Flags:  Flags(binary.BigEndian.Uint64(raw[24:])),
	}
	if !short {
		c.High = binary.BigEndian.Uint64(raw[32:])
	}
	if c.Span == 0 || c.Trace == 0 {
		return Context{}, false
	}
	return c, true
}

// AppendTo appends the value of Header to b.
func (c Context) AppendTo(b []byte) []byte {
	var raw [longSize]byte
	binary.BigEndian.PutUint64(raw[0:], c.Span)
	binary.BigEndian.PutUint64(raw[8:], c.Parent)
	binary.BigEndian.PutUint64(raw[16:], c.Trace)
	binary.BigEndian.PutUint64(raw[24:], uint64(c.Flags))
	if c.High == 0 {
		return base64.StdEncoding.AppendEncode(b, raw[:shortSize])
	}
	binary.BigEndian.PutUint64(raw[32:], c.High)
	return base64.StdEncoding.AppendEncode(b, raw[:])
}

// AppendRequestID appends the value of HeaderRequestID to b: the trace id, in 16
// hexadecimal digits also if it has 128 bits.
func (c Context) AppendRequestID(b []byte) []byte { return appendHex(b, c.Trace) }

// Child returns a new span below c: the root of a new trace if c is zero.
func (c Context) Child() Context {
	id := newID()
	if c.Trace == 0 {
		return Context{Span: id, Parent: id, Trace: id, Flags: c.Flags}
	}
	c.Span, c.Parent = id, c.Span
	return c
}

// newID returns a number that no other span has, but for an accident in 2⁶⁴.
func newID() uint64 {
	for {
		if id := rand.Uint64(); id != 0 {
			return id
		}
	}
}

// Sampler decides which traces to keep: the same ones each time it is asked,
// others than a Sampler with another salt. It is a value and never changes.
type Sampler struct{ salt uint64 }

// NewSampler returns a Sampler. The salt is random in a proxy, so that the same
// trace ids are not lucky everywhere.
func NewSampler(salt uint64) Sampler { return Sampler{salt} }

// Decide returns c with the decision that rate, a value of HeaderSample, asks for,
// whatever had been decided. Less than 0 is 0 and more than 1 is 1; what is no
// number changes nothing.
//
// Deciding against takes Sampled and Debug away. Linkerd 1.x leaves them, so that
// a trace that it has decided to drop goes on to be recorded further down.
func (s Sampler) Decide(c Context, rate []byte) Context {
	share, err := strconv.ParseFloat(string(rate), 64)
	if _, outOfRange := err.(*strconv.NumError); outOfRange && math.IsInf(share, 0) {
		err = nil // 1e999 is a number
	}
	if err != nil || math.IsNaN(share) {
		return c
	}
	if s.keeps(c.Trace, share) {
		c.Flags |= Known | Sampled
	} else {
		c.Flags = c.Flags&^(Sampled|Debug) | Known
	}
	return c
}

// keeps reports whether a trace is among the share, counted in ten thousandths as
// Linkerd 1.x does.
func (s Sampler) keeps(trace uint64, share float64) bool {
	const buckets = 10000
	// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
	// Number Generators, OOPSLA 2014), for ids that callers made may be anything.
	z := trace ^ s.salt
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float64(z%buckets) < share*buckets
}

// appendHex appends an id in 16 lower-case hexadecimal digits.
func appendHex(b []byte, id uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[id>>shift&15])
	}
	return b
}
