pub struct Coverage;
