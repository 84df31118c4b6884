package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// maxUse is how many names one message of use has at most. A path can have some hundred
// bytes, so this keeps far below api.MaxLine.
const maxUse = 50

// useEvery is how often at most the names in use are told: a plan is asked for by people, and to
// find out which names are in use costs a look at all of them.
const useEvery = time.Second

// send tells the namer who we are, what we watch and which names are in use, and keeps
// telling it.
func (c *Client) send(ctx context.Context, w io.Writer) error {
	heartbeat := time.NewTicker(api.Heartbeat)
	defer heartbeat.Stop()
	var b bytes.Buffer
	s := sender{client: c, lines: json.NewEncoder(&b), due: time.NewTimer(0)}
	defer s.due.Stop()
	s.due.Stop()
	if err := s.lines.Encode(api.FromProxy{Hello: &c.cfg.Hello}); err != nil {
		return fmt.Errorf("write stream: %w", err)
	}
	s.use()
	for {
		s.watch()
		if b.Len() > 0 {
			if _, err := w.Write(b.Bytes()); err != nil {
				return fmt.Errorf("write stream: %w", err)
			}
			b.Reset()
		}
		select {
		case <-c.changed:
		case <-c.used:
			s.useSoon()
		case <-s.due.C:
			s.use()
		case <-heartbeat.C:
			s.lines.Encode(api.FromProxy{})
			s.useSoon() // names that are used no more signal nothing
		case <-ctx.Done():
			return nil
		}
	}
}

// sender is what the namer has been told on one stream.
type sender struct {
	client  *Client
	lines   *json.Encoder
	watched map[string]*name

	used   map[api.Name]bool
	usedAt time.Time // when that was
	due    *time.Timer
	waits  bool // for due
}

// watch says which names are followed, as far as that has changed.
func (s *sender) watch() {
	now := s.client.wanted()
	for id, n := range s.watched {
		// A name that was released and asked for again is new: its value is
		// pending, and only a new watch makes the namer repeat itself.
		if now[id] != n {
			s.lines.Encode(api.FromProxy{Unwatch: id})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		if s.watched[id] != now[id] {
			s.lines.Encode(api.FromProxy{Watch: id})
		}
	}
	s.watched = now
}

// useSoon has use called as soon as it may be.
func (s *sender) useSoon() {
	if !s.waits {
		s.waits = true
		s.due.Reset(useEvery - time.Since(s.usedAt))
	}
}

// use says which names are in use, as far as that has changed.
func (s *sender) use() {
	s.waits, s.usedAt = false, time.Now()
	if s.client.cfg.InUse == nil {
		return
	}
	now := map[api.Name]bool{}
	var add, remove []api.Name
	for _, n := range s.client.cfg.InUse() {
		if !now[n] && !s.used[n] {
			add = append(add, n)
		}
		now[n] = true
	}
	for n := range s.used {
		if !now[n] {
			remove = append(remove, n)
		}
	}
	for some := range slices.Chunk(remove, maxUse) {
		s.lines.Encode(api.FromProxy{Use: &api.Use{Remove: some}})
	}
	for some := range slices.Chunk(add, maxUse) {
		s.lines.Encode(api.FromProxy{Use: &api.Use{Add: some}})
	}
	s.used = now
}
