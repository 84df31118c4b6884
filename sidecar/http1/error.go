package http1

// Limits bound what a peer may make a Reader hold. All are in bytes or in
// fields, and count the CRLF at the end of each line.
type Limits struct {
	Line   int // bytes of the request line or status line
	Head   int // bytes of all header fields together
	Fields int // header fields

	ChunkLine     int // bytes of a line that begins a chunk, with its extensions
	Trailer       int // bytes of all trailer fields together
	TrailerFields int // trailer fields
}

// DefaultLimits fits what browsers and the common proxies accept.
var DefaultLimits = Limits{
	Line: 16 << 10, Head: 64 << 10, Fields: 200,
	ChunkLine: 4 << 10, Trailer: 16 << 10, TrailerFields: 50,
}

// Kind tells what rule a message breaks, so that each can have its own code.
type Kind uint8

// The kinds of a ParseError, with the status that each deserves in an answer to
// a request.
const (
	Syntax             Kind = iota // 400: a line of the head is malformed
	Framing                        // 400: where the body ends is in doubt
	BadHost                        // 400: no Host, more than one, or not a host
	BadTarget                      // 400: the request target is of no form known, or not of the method's
	BadChunk                       // 400: the chunked body or its trailer is malformed
	LineTooLong                    // 414
	BadExpectation                 // 417: an expectation other than 100-continue
	HeadTooLarge                   // 431
	TooManyFields                  // 431
	TrailerTooLarge                // 431: too many trailer fields, or too many bytes of them
	UnsupportedCoding              // 501: a transfer coding besides chunked
	UnsupportedVersion             // 505
)

// A ParseError is a message that breaks RFC 9112, or that a second parser might
// read otherwise. The connection it came on cannot be used any more.
type ParseError struct {
	Status int // the answer it deserves
	Kind   Kind
	What   string // what is wrong, and what would be right
}

func (e *ParseError) Error() string { return e.What }

func refuse(k Kind, what string) error {
	status := 400
	switch k {
	case LineTooLong:
		status = 414
	case BadExpectation:
		status = 417
	case HeadTooLarge, TooManyFields, TrailerTooLarge:
		status = 431
	case UnsupportedCoding:
		status = 501
	case UnsupportedVersion:
		status = 505
	}
	return &ParseError{status, k, what}
}

func bad(what string) error { return refuse(Syntax, what) }
