/**
 * Characters that people can't see but that change what they see: controls except line breaks and tabs, those that turn
 * the direction of writing, and halves of surrogate pairs.
 */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Cs}/gu

export function clean(text: string): string {
  return text.replace(UNSEEN, "")
}
