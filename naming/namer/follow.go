package namer

import (
	"bytes"
	"net/http"

	"github.com/tulle-mesh/tulle/internal/watch"
)

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
			if _, err := w.Write(text); err != nil || out.Flush() != nil {
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
