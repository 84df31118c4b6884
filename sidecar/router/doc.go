// Package router is the proxy's request path: it alone knows in which order the
// parts work on a request.
//
//	outgoing: read head → identify → bind → pick an endpoint → hop → relay
//	incoming: read head → is the endpoint ours → relay
//
// One goroutine drives a client connection from accept to close; a second one
// runs only while a request body is being sent that had not arrived with its
// head. Bodies are streamed, never held whole.
//
// Invariant: every request whose head could be read is answered exactly once,
// by the backend's answer or by a Problem. A request is sent again only while it
// is certain that it had no effect: the endpoint could not be reached, its proxy
// said so, or the method is safe and no byte of an answer had arrived.
//
//	out := router.NewOutgoing(router.OutgoingConfig{…})
//	err := out.Serve(ctx, listener) // until ctx ends and the connections are done
package router
