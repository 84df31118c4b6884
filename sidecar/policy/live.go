package policy

import (
	"log/slog"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/watch"
)

// Live is a policy that texts replace, each as a whole or not at all: one that
// is wrong leaves what was good.
type Live struct {
	log            *slog.Logger
	value          *watch.Value[*Policy]
	taken, refused atomic.Uint64
}

// NewLive returns the default policy, to be replaced. A nil logger discards what
// it says.
func NewLive(log *slog.Logger) *Live {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Live{log: log, value: watch.New(Default())}
}

// Value is the policy as it is now.
func (l *Live) Value() *watch.Value[*Policy] { return l.value }

// Loads returns how often a policy was taken, and how often one was refused.
func (l *Live) Loads() (taken, refused uint64) { return l.taken.Load(), l.refused.Load() }

// Take makes a text the policy if it is one, and logs what came of it; source
// says where it comes from. It is called by one goroutine at a time.
func (l *Live) Take(source string, text []byte) {
	if err := l.take(source, text); err != nil {
		l.refuse(err)
		return
	}
	l.log.Info("policy changed", "source", source)
}

func (l *Live) take(source string, text []byte) error {
	p, err := Parse(source, text)
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		l.log.Warn(w.Text, "file", w.File, "line", w.Line)
	}
	l.taken.Add(1)
	l.value.Set(p)
	return nil
}

func (l *Live) refuse(err error) {
	l.refused.Add(1)
	l.log.Error("policy not taken, the old one stays", "error", err)
}
