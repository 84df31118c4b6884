package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNow(t *testing.T) {
	last := Now()
	if last <= 0 {
		t.Fatalf("it is %d", last)
	}
	for range 1000 {
		now := Now()
		if now < last {
			t.Fatalf("%d comes after %d", now, last)
		}
		last = now
	}
}

func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := Now()
		if before <= 0 {
			t.Fatalf("it is %d", before)
		}
		time.Sleep(time.Hour)
		if took := time.Duration(Now() - before); took != time.Hour {
			t.Errorf("an hour takes %s", took)
		}
	})
}
