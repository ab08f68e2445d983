// ExeccastError is what this package throws, but for TypeErrors. Its code is the name of the error in Go's package core, such
// as ErrFinished, or one of those below.
export class ExeccastError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

// FrameError says which field of a frame cannot be encoded: id, event, data, retry or comment.
export class FrameError extends ExeccastError {
  constructor(field, reason, options) {
    super('FrameError', `execcast: frame field ${field} ${reason}`, options);
    this.field = field;
    this.reason = reason;
  }
}

// DrainError rejects close and shutdown when their signal cut clients off: that many.
export class DrainError extends ExeccastError {
  constructor(cut, message) {
    super('DrainError', message);
    this.cut = cut;
  }
}
