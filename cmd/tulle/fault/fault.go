// Package fault is how the commands of tulle say that they did not do what was asked: an error with a hint at what
// to do about it and the exit code that scripts go by.
//
// It prints nothing; the program does that, one line for the error and one that begins with "hint:". Invariant: an
// error is one sentence, and the hint is what can be done, not what went wrong.
//
//	return fault.Misused(fmt.Errorf("-o %q is unknown", output), "it is one of yaml, json")
package fault

// Exit codes. 64 is EX_USAGE of sysexits.h.
const (
	ExitFailed   = 1  // something failed
	ExitFindings = 2  // the command found what it looks for
	ExitUsage    = 64 // the command line is wrong
)

// Error is why a command did not do what was asked.
type Error struct {
	err  error
	hint string
	code int
}

// Failed is an error of a command that could not do its work. The hint may be empty.
func Failed(err error, hint string) error { return &Error{err, hint, ExitFailed} }

// Found is an error of a command that found what it looks for. The hint may be empty.
func Found(err error, hint string) error { return &Error{err, hint, ExitFindings} }

// Misused is an error of a command line that is wrong. The hint may be empty.
func Misused(err error, hint string) error { return &Error{err, hint, ExitUsage} }

// Error is one sentence, without the hint.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns what went wrong underneath.
func (e *Error) Unwrap() error { return e.err }

// Hint is what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// ExitCode is one of the Exit constants.
func (e *Error) ExitCode() int { return e.code }
