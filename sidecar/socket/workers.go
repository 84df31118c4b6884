package socket

import "sync"

// maxIdle is how many goroutines wait for their next task: they have grown their
// stacks already, which a new one does at each start.
const maxIdle = 128

// workers run tasks, each on a goroutine of its own at the time. The one that
// was busy last is taken first, so that memory in the cache is used again.
type workers struct {
	mu      sync.Mutex
	idle    []chan func()
	stopped bool
	running sync.WaitGroup
}

func (w *workers) run(task func()) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		next := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		next <- task
		return
	}
	w.running.Add(1)
	w.mu.Unlock()
	go w.work(task)
}

// work runs tasks, the first of which is given, until there are enough others.
func (w *workers) work(task func()) {
	defer w.running.Done()
	next := make(chan func(), 1)
	for ok := true; ok; task, ok = <-next {
		task()
		if !w.rest(next) {
			return
		}
	}
}

// rest makes the goroutine behind next available, unless there are enough.
func (w *workers) rest(next chan func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || len(w.idle) >= maxIdle {
		return false
	}
	w.idle = append(w.idle, next)
	return true
}

// stop ends the idle goroutines, the others after their task, and waits for all.
func (w *workers) stop() {
	w.mu.Lock()
	w.stopped = true
	for _, next := range w.idle {
		close(next)
	}
	w.idle = nil
	w.mu.Unlock()
	w.running.Wait()
}
