package namer

import (
	"bytes"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// send writes a line of an answer that goes on, and reports whether the client took it. One that
// reads nothing for so long would keep what it follows for ever. Between lines there is no
// deadline: HTTP/2 would end the stream at it.
func send(w http.ResponseWriter, out *http.ResponseController, line []byte) bool {
	_ = out.SetWriteDeadline(time.Now().Add(api.Silence)) // a writer that has none blocks nobody
	if _, err := w.Write(line); err != nil || out.Flush() != nil {
		return false
	}
	_ = out.SetWriteDeadline(time.Time{})
	return true
}

// follow writes what show makes of the value, now and at every change, until the request's
// context ends or the client is gone. Nil is not written, nor what was written last.
func follow[T any](w http.ResponseWriter, r *http.Request, value *watch.Value[T], show func(T) []byte) {
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return
	}
	var last []byte
	for {
		v, changed := value.Watch()
		if text := show(v); text != nil && !bytes.Equal(text, last) {
			if !send(w, out, text) {
				return
			}
			last = text
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
