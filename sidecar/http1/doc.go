// Package http1 reads and writes HTTP/1.0 and HTTP/1.1 messages (RFC 9112) for
// a relay: heads are parsed in place, bodies are handed on piece by piece,
// without a copy where they are long. Buffers are borrowed, so that a connection
// holds none while it is idle.
//
// It is not an HTTP client or server: it knows nothing of connections, pools,
// routing or time. Where the RFC lets a recipient be lenient it is strict,
// because what one parser repairs another may read as a different request:
// bare CR or LF, folded fields, white space before a colon, more than one
// length, a length beside chunks and the like are a *ParseError.
//
// Invariant: what a Writer sends for a request that a Reader accepted is read
// by any conforming parser as that one request.
//
//	r := http1.NewReader(conn, http1.DefaultLimits)
//	var req wire.Request
//	if err := r.Request(&req); err != nil { … }
//	body := r.Body(req.Body, req.Length)
//	readErr, writeErr := http1.Relay(w, &body, req.Body == wire.Chunked)
//	r.Idle()
package http1
