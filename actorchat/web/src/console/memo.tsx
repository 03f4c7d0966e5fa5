import type { ComponentChildren, ComponentType, FunctionComponent } from "preact"
import { useRef } from "preact/hooks"

/** Draws a component again only if `isSame` says that other properties would show something else. */
export function memo<P extends object, Q extends P = P>(
  Component: ComponentType<P>,
  isSame: (a: Q, b: Q) => boolean,
): FunctionComponent<Q> {
  return properties => {
    const drawn = useRef<{ properties: Q; element: ComponentChildren } | null>(null)
    if (!drawn.current || !isSame(drawn.current.properties, properties)) {
      drawn.current = { properties, element: <Component {...properties} /> }
    }
    // Preact leaves an element alone that is the same object as before.
    return drawn.current.element
  }
}

/** Whether all properties are the same. */
export function isEqual<P extends object>(a: P, b: P): boolean {
  return Object.entries(a).every(([name, value]) => Object.is(value, b[name as keyof P]))
}
