// Package jetstream is a core.Backplane on NATS JetStream.
//
// One stream holds the messages of all executions, each under a subject of its
// own, and no consumers. The stream's limits on age and on messages a subject
// bound what it keeps.
//
//   - An append names the last message of its execution, and the stream refuses
//     it if that is not the last one any more. So finishing an execution and
//     Event.After are decided by the stream, at the moment it stores, and a
//     retry is stored once.
//   - A message says which one was before it, so a reader sees at once when it
//     has missed some. It gets what is new from the stream's republishing, which
//     may lose messages, and what it has missed from a replica (direct get). At
//     least every second or two it looks whether there is something after the
//     last message it has.
//   - The ID of a message is the time the stream was created, in microseconds
//     since 1970, plus its sequence in the stream.
//
// An append returns when a quorum of the stream's replicas has the message. By
// default these write it to the disk without waiting for that (sync_interval,
// two minutes): what a killed process had acknowledged is still there, but when
// a quorum of machines loses its power at once, the last messages may be gone.
// Set sync_interval: always in the servers to pay for that, too.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// Options configures a Backplane. Nil works; a zero field means its documented
// default, a negative one that the limit or feature is off.
//
// Replicas and the limits are those of a stream that New creates. One that
// exists keeps its own, which is logged.
type Options struct {
	// Stream is the name of the stream. Default "EXECCAST".
	Stream string
	// Prefix is what the subjects in use begin with, all of them. Default
	// "execcast".
	Prefix string
	// Replicas is how many servers keep a copy, of which more than half must
	// run. Default 1; a cluster of three wants 3.
	Replicas int
	// MaxAge is how long a message is kept, of a running execution as well.
	// Default 24 h.
	MaxAge time.Duration
	// MaxMessages bounds the messages that one execution keeps. Superseded
	// events count here, unlike in a registry. Default 16,384.
	MaxMessages int
	// MaxBytes bounds the stream, whose oldest messages go first. Default: no
	// bound but the servers' own.
	MaxBytes int64
	// Retention is how long a finished execution is kept, by the node that
	// has finished it: should that have gone, MaxAge holds. Default 10 min.
	Retention time.Duration
	// Logger gets what an operator must see. Default slog.Default().
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var r Options
	if o != nil {
		r = *o
	}
	set(&r.Stream, "EXECCAST")
	set(&r.Prefix, "execcast")
	set(&r.Replicas, 1)
	set(&r.MaxAge, 24*time.Hour)
	set(&r.MaxMessages, 16384)
	set(&r.MaxBytes, -1)
	set(&r.Retention, 10*time.Minute)
	r.MaxAge = max(r.MaxAge, 0) // what the server calls no limit
	r.MaxMessages = max(r.MaxMessages, -1)
	r.MaxBytes = max(r.MaxBytes, -1)
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r
}

func set[T comparable](v *T, byDefault T) {
	var zero T
	if *v == zero {
		*v = byDefault
	}
}

// ErrStream: a stream of that name exists and cannot be used.
var ErrStream = errors.New("execcast: unusable stream")

// Backplane is a core.Backplane on a JetStream stream. All methods may be called
// concurrently.
type Backplane struct {
	opts   Options
	nc     *nats.Conn
	js     js.JetStream
	base   atomic.Uint64 // the stream's creation in microseconds since 1970
	events string        // the subjects that are stored, without an execution's token
	live   string        // the same, of what is republished
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	inbox   inbox
	shards  []chan *nats.Msg // what is republished, by execution
	fetches queue            // topics that have to be read from the stream
	kick    chan struct{}    // wakes watch
	node    string           // a name for this Backplane
	counts  *nats.Subscription

	mu      sync.RWMutex
	writers map[string]*writer // by execution ID
	topics  map[string]*topic  // by token
	parked  []*topic           // topics that wait for the stream
	down    error              // why the stream cannot be reached, if so
	purges  []purge            // in the order they are due
}

var _ core.Backplane = (*Backplane)(nil)

// New returns a Backplane on a stream that it creates if there is none. It tries
// until ctx ends, through elections and while nc is not connected; then the
// error wraps core.ErrUnavailable. A stream that cannot be used is ErrStream.
//
// The Backplane uses nc until Close and leaves it open. nc should reconnect for
// ever (nats.MaxReconnects(-1)).
func New(ctx context.Context, nc *nats.Conn, opts *Options) (*Backplane, error) {
	o := opts.withDefaults()
	for _, token := range strings.Split(o.Prefix, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") {
			return nil, fmt.Errorf("execcast: %q is no prefix for subjects", o.Prefix)
		}
	}
	j, err := js.New(nc)
	if err != nil {
		return nil, err
	}
	if nc.Opts.MaxReconnect >= 0 {
		o.Logger.Warn("execcast: the NATS connection will give up reconnecting", "attempts", nc.Opts.MaxReconnect)
	}
	b := &Backplane{
		opts:    o,
		nc:      nc,
		js:      j,
		events:  o.Prefix + ".e.",
		live:    o.Prefix + ".l.",
		kick:    make(chan struct{}, 1),
		node:    nats.NewInbox(),
		writers: map[string]*writer{},
		topics:  map[string]*topic{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.fetches.init()
	if err := b.start(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Backplane) start(ctx context.Context) error {
	if err := b.inbox.open(b.nc); err != nil {
		return err
	}
	if err := b.create(ctx); err != nil {
		return err
	}
	if err := b.answerCounts(); err != nil {
		return err
	}
	b.startFollowing()
	b.wg.Go(b.watch)
	return nil
}

// Close ends what Follow has begun, and all the Backplane's goroutines. What is
// appended afterwards is refused with core.ErrShutdown.
func (b *Backplane) Close() {
	b.cancel()
	b.fetches.close()
	b.wg.Wait()
	b.mu.Lock()
	topics := b.topics
	b.topics = map[string]*topic{}
	b.mu.Unlock()
	for _, t := range topics {
		for ; t != nil; t = t.next {
			t.unsubscribe()
		}
	}
	if b.counts != nil {
		_ = b.counts.Unsubscribe() // or the connection has gone
	}
	b.inbox.close()
}

// create makes the stream, if there is none, and learns its base.
func (b *Backplane) create(ctx context.Context) error {
	want := js.StreamConfig{
		Name:              b.opts.Stream,
		Description:       "execcast: what executions publish",
		Subjects:          []string{b.events + "*"},
		Storage:           js.FileStorage,
		Replicas:          b.opts.Replicas,
		MaxAge:            b.opts.MaxAge,
		MaxMsgsPerSubject: int64(b.opts.MaxMessages),
		MaxBytes:          b.opts.MaxBytes,
		AllowDirect:       true,
		AllowRollup:       true,
		RePublish:         &js.RePublish{Source: b.events + ">", Destination: b.live + ">"},
	}
	var s js.Stream
	for try := 0; ; try++ {
		err := b.connected()
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			s, err = b.js.Stream(attempt, want.Name)
			if errors.Is(err, js.ErrStreamNotFound) {
				// Somebody else may be creating it: whoever comes second looks at what is there.
				_, err = b.js.CreateStream(attempt, want)
				if err == nil || errors.Is(err, js.ErrStreamNameAlreadyInUse) {
					s, err = b.js.Stream(attempt, want.Name)
				}
			}
			cancel()
		}
		if err == nil {
			break
		}
		if permanent(err) {
			return fmt.Errorf("%w %s: %w", ErrStream, want.Name, err)
		}
		if !b.pause(ctx, try) {
			return unavailable(ctx, err)
		}
	}
	info := s.CachedInfo()
	if err := b.check(&want, &info.Config); err != nil {
		return fmt.Errorf("%w %s: %w", ErrStream, want.Name, err)
	}
	b.base.Store(uint64(info.Created.UnixMicro()))
	return nil
}

// check compares what is with what New would have made.
func (b *Backplane) check(want, is *js.StreamConfig) error {
	switch {
	case len(is.Subjects) != 1 || is.Subjects[0] != want.Subjects[0]:
		return fmt.Errorf("its subjects are %q, not %q", is.Subjects, want.Subjects)
	case is.RePublish == nil || *is.RePublish != *want.RePublish:
		return fmt.Errorf("it does not republish %s to %s", want.RePublish.Source, want.RePublish.Destination)
	case !is.AllowDirect:
		return errors.New("it does not allow direct get")
	case !is.AllowRollup:
		return errors.New("it does not allow rollup")
	case is.Retention != js.LimitsPolicy || is.Discard != js.DiscardOld:
		return errors.New("its retention is not by limits that discard what is old")
	case is.Mirror != nil || len(is.Sources) > 0 || is.SubjectTransform != nil || is.Sealed:
		return errors.New("it is a mirror, has sources, transforms subjects or is sealed")
	}
	if is.Replicas != want.Replicas || is.MaxAge != want.MaxAge || is.MaxMsgsPerSubject != want.MaxMsgsPerSubject || is.MaxBytes != want.MaxBytes {
		b.opts.Logger.Info("execcast: the stream has other limits than these options", "stream", is.Name,
			"replicas", is.Replicas, "maxAge", is.MaxAge, "maxMessages", is.MaxMsgsPerSubject, "maxBytes", is.MaxBytes)
	}
	return nil
}

func (b *Backplane) connected() error {
	switch {
	case b.ctx.Err() != nil:
		return core.ErrShutdown
	case b.nc.IsClosed():
		return nats.ErrConnectionClosed
	case !b.nc.IsConnected():
		return nats.ErrDisconnected
	}
	return nil
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	var api *js.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeStoreFailed, codeInsufficient, codeNotEnoughPeers, codeDuplicate:
			return false
		case codeHeaderTooLarge, codeInvalidConfig, js.JSErrCodeStreamMessageExceedsMaximum, js.JSErrCodeJetStreamNotEnabledForAccount:
			return true
		}
		return api.Code == 400
	}
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrHeadersNotSupported) ||
		errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, js.ErrInvalidStreamName)
}

// Codes of the server's errors that the client library does not name.
const (
	codeNotEnoughPeers js.ErrorCode = 10005
	codeInsufficient   js.ErrorCode = 10023
	codeStoreFailed    js.ErrorCode = 10077
	codeInvalidConfig  js.ErrorCode = 10052
	codeHeaderTooLarge js.ErrorCode = 10097
	codeDuplicate      js.ErrorCode = 10158 // the same message is being stored
)

// unavailable is the error of whoever has tried until ctx ended.
func unavailable(ctx context.Context, last error) error {
	if errors.Is(last, core.ErrShutdown) {
		return last
	}
	if last == nil || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%w: %w", core.ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("%w: %w, last: %w", core.ErrUnavailable, ctx.Err(), last)
}

// unreachable is the error of what has been tried once.
func unreachable(err error) error {
	if errors.Is(err, core.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
}
