package accesslog

import "strconv"

// maxField is how many bytes of a field are written; more serve no reader of a log
// and let a caller fill the disk.
const maxField = 2 << 10

// Request is what a line says about a request. The slices may change once Begin
// has returned. An empty field is written as "-".
type Request struct {
	Host, Method, Target, Referer, UserAgent []byte
	Remote                                   string // the client's IP
	Minor                                    byte   // of HTTP/1.Minor
}

// Line is a line of the log that waits for the answer. It copies what it is told,
// because a request's memory may be gone by then. The zero value is empty and
// ready to use; its memory is used again.
type Line struct {
	buf           []byte
	stamp, answer int // where in buf the time and the answer go
}

// Begun reports whether there is a request to be logged.
func (l *Line) Begun() bool { return len(l.buf) > 0 }

// Reset forgets the request and keeps the memory.
func (l *Line) Reset() { *l = Line{buf: l.buf[:0]} }

// Begin notes a request.
func (l *Line) Begin(r *Request) {
	b := appendField(l.buf[:0], r.Host, true)
	b = append(b, ' ')
	if r.Remote == "" {
		b = append(b, '-')
	}
	b = append(b, r.Remote...)
	b = append(b, " - - "...)
	l.stamp = len(b)
	b = append(b, ` "`...)
	b = appendField(b, r.Method, false)
	b = append(b, ' ')
	b = appendField(b, r.Target, false)
	b = append(b, " HTTP/1."...)
	b = append(b, '0'+r.Minor, '"', ' ')
	l.answer = len(b)
	b = append(b, ` "`...)
	b = appendField(b, r.Referer, false)
	b = append(b, `" "`...)
	b = appendField(b, r.UserAgent, false)
	l.buf = append(b, "\"\n"...)
}

// appendTo appends the whole line to b.
func (l *Line) appendTo(b, stamp []byte, status int, bytes int64) []byte {
	b = append(b, l.buf[:l.stamp]...)
	b = append(b, stamp...)
	b = append(b, l.buf[l.stamp:l.answer]...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if bytes > 0 {
		b = strconv.AppendInt(b, bytes, 10)
	} else {
		b = append(b, '-')
	}
	return append(b, l.buf[l.answer:]...)
}

// appendField appends a field so that it ends neither its quotes nor the line,
// nor changes anything on a terminal: as \" , \\ and \xHH, as Apache does.
func appendField(b, field []byte, bare bool) []byte {
	const digits = "0123456789abcdef"
	if len(field) == 0 {
		return append(b, '-')
	}
	for _, c := range field[:min(len(field), maxField)] {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~' || bare && c == ' ':
			b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}
