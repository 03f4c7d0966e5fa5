const KEY = "actorchat.sound"

let context: AudioContext | null = null

/** Allows sound from now on; browsers want a gesture before. This takes a while, which what is drawn now must not wait for. */
export function armSound(): void {
  if (context?.state === "running") return
  setTimeout(() => {
    try {
      context ??= new AudioContext()
      if (context.state === "suspended") void context.resume()
    } catch {
      // Without an audio device the chat is silent.
    }
  }, 100)
}

export function soundIsOn(): boolean {
  try {
    return localStorage.getItem(KEY) !== "off"
  } catch {
    return true
  }
}

export function turnSound(on: boolean): void {
  try {
    localStorage.setItem(KEY, on ? "on" : "off")
  } catch {
    // Blocked storage: the choice lasts as long as the page.
  }
}

/** Two short notes. */
export function ring(): void {
  if (context?.state !== "running" || !soundIsOn()) return
  const start = context.currentTime
  for (const [i, frequency] of [660, 880].entries()) {
    const [oscillator, gain] = [context.createOscillator(), context.createGain()]
    const at = start + i * 0.12
    oscillator.frequency.value = frequency
    gain.gain.setValueAtTime(0.0001, at)
    gain.gain.exponentialRampToValueAtTime(0.12, at + 0.02)
    gain.gain.exponentialRampToValueAtTime(0.0001, at + 0.3)
    oscillator.connect(gain).connect(context.destination)
    oscillator.start(at)
    oscillator.stop(at + 0.32)
  }
}
