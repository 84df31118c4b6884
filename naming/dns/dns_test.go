package dns_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answer is what the resolver says next.
type answer struct {
	addresses []netip.Addr
	err       error
}

func addresses(r naming.Replicas) (all []string) {
	for _, e := range r.Endpoints {
		all = append(all, e.Address)
	}
	return all
}

func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[answer]
		var lookups atomic.Int64
		n := dns.New(dns.Config{Lookup: func(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
			if host != "db.test" {
				t.Errorf("looked up %s", host)
			}
			lookups.Add(1)
			a := now.Load()
			return a.addresses, 0, a.err
		}})
		expect := func(value naming.Replicas, want ...string) {
			t.Helper()
			got := addresses(value)
			if value.State != naming.StateBound || len(got) != len(want) {
				t.Fatalf("got %s %v, want %v", value.State, got, want)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
		}
		now.Store(&answer{err: &net.DNSError{IsNotFound: true}})
		value, release := n.Replicas("/$/inet/db.test/5432")
		synctest.Wait()
		expect(value.Get()) // a name that does not resolve has no endpoints

		now.Store(&answer{addresses: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("fd00::1")}})
		time.Sleep(4 * time.Second) // virtual
		synctest.Wait()
		expect(value.Get(), "10.0.0.2:5432", "[fd00::1]:5432")

		now.Store(&answer{err: errors.New("the resolver is away")})
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(value.Get(), "10.0.0.2:5432", "[fd00::1]:5432")

		again, releaseAgain := n.Replicas("/$/inet/db.test/5432")
		if again != value {
			t.Error("the same name has two values")
		}
		release()
		release() // once counts
		before := lookups.Load()
		time.Sleep(time.Minute)
		if lookups.Load() == before {
			t.Error("the name is no longer followed although somebody needs it")
		}
		releaseAgain()
		synctest.Wait()
		before = lookups.Load()
		time.Sleep(time.Minute)
		if lookups.Load() != before {
			t.Error("the name is still followed although nobody needs it")
		}
	})
}

// However long a name has been unknown, that there is one now is noticed in 30 seconds.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		n := dns.New(dns.Config{Lookup: func(context.Context, string) ([]netip.Addr, time.Duration, error) {
			if !there.Load() {
				return nil, 0, &net.DNSError{IsNotFound: true}
			}
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, 0, nil
		}})
		value, release := n.Replicas("/$/inet/late.test/80")
		defer release()
		for range 40 { // wherever in a wait it begins
			there.Store(false)
			time.Sleep(10*time.Minute + time.Second)
			there.Store(true)
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if got := addresses(value.Get()); len(got) != 1 {
				t.Fatalf("after 30 seconds it is %v", got)
			}
		}
	})
}

// A name is looked up again when its records run out, within bounds.
func TestRecordsSayHowLong(t *testing.T) {
	for _, c := range []struct{ ttl, want time.Duration }{
		{0, 30 * time.Second}, {time.Millisecond, time.Second}, {5 * time.Second, 5 * time.Second}, {time.Hour, 30 * time.Second},
	} {
		t.Run(c.ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var at []time.Duration
				n := dns.New(dns.Config{Lookup: func(context.Context, string) ([]netip.Addr, time.Duration, error) {
					at = append(at, time.Since(begin))
					return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, c.ttl, nil
				}})
				_, release := n.Replicas("/$/inet/db.test/80")
				time.Sleep(2*c.want + c.want/2)
				release()
				synctest.Wait()
				if want := []time.Duration{0, c.want, 2 * c.want}; !slices.Equal(at, want) {
					t.Errorf("looked up after %v, want %v", at, want)
				}
			})
		})
	}
}

func TestLiteralsNeedNoResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := dns.New(dns.Config{Lookup: func(context.Context, string) ([]netip.Addr, time.Duration, error) {
			t.Error("an IP literal was looked up")
			return nil, 0, nil
		}})
		for host, want := range map[string]string{"10.1.2.3": "10.1.2.3:80", "127.1": "127.0.0.1:80", "fd00::1": "[fd00::1]:80"} {
			value, release := n.Replicas("/$/inet/" + host + "/80")
			synctest.Wait()
			if got := addresses(value.Get()); len(got) != 1 || got[0] != want {
				t.Errorf("%s: got %v", host, got)
			}
			release()
		}
	})
}

func TestRefused(t *testing.T) {
	n := dns.New(dns.Config{})
	for _, id := range []string{"/$/inet/a/http", "/$/inet/a/0", "/$/inet/a/70000", "/$/inet/a/080", "/$/inet/a/80/b", "/$/inet/a", "/#/io.l5d.k8s/a/b/c", "nonsense"} {
		value, release := n.Replicas(id)
		release()
		if r := value.Get(); r.State != naming.StateFailed || r.Cause == "" {
			t.Errorf("%s: %s %q", id, r.State, r.Cause)
		}
	}
}

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := dns.New(dns.Config{
			Lookup: func(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
				all := []netip.Addr{netip.MustParseAddr("169.254.169.254")}
				if host == "mixed.test" {
					all = append(all, netip.MustParseAddr("192.0.2.1"))
				}
				return all, 0, nil
			},
			Allow: func(a netip.AddrPort) error {
				if a.Addr().IsLinkLocalUnicast() {
					return errors.New("not there")
				}
				return nil
			},
		})
		mixed, releaseMixed := n.Replicas("/$/inet/mixed.test/80")
		defer releaseMixed()
		only, releaseOnly := n.Replicas("/$/inet/only.test/80")
		defer releaseOnly()
		synctest.Wait()
		if got := addresses(mixed.Get()); len(got) != 1 || got[0] != "192.0.2.1:80" {
			t.Errorf("of a name with an allowed address: %v", got)
		}
		if r := only.Get(); r.State != naming.StateFailed || r.Cause != "not there" {
			t.Errorf("of a name without: %s %q", r.State, r.Cause)
		}
	})
}
